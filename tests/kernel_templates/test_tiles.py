"""Packing moves every byte of a matrix to where a kernel reads it, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_templates import formats, memory
from kernel_templates.cpu import tiles
from kernel_templates.formats import FORMATS


def arbitrary_bytes(rows: int, cols: int, name: str, seed: int = 0) -> torch.Tensor:
    data = np.random.default_rng(seed).integers(0, 256, (rows, formats.get(name).row_bytes(cols)), np.uint8)
    return torch.from_numpy(data)


def unpack(packed: tiles.Tiles, plane: np.ndarray) -> np.ndarray:
    """[tile][...][lane] -> [padded rows, ...], by numpy alone."""
    return plane.transpose(0, 2, 1).reshape(tiles.padded(packed.rows, packed.lanes), -1)


@given(
    name=st.sampled_from(sorted(FORMATS)),
    rows=st.integers(1, 300),
    blocks=st.integers(1, 3),
    lanes=st.sampled_from([16, 32, 48, 64, 128]),
)
@settings(max_examples=80)
def test_packing_loses_nothing_and_pads_with_zeros(name, rows, blocks, lanes):
    cols = 256 * blocks if name == "Q6_K" else 32 * blocks
    raw = arbitrary_bytes(rows, cols, name, rows)
    packed = tiles.pack(raw, cols, name, lanes)
    planes = formats.get(name).to_planes(raw)
    assert (packed.rows, packed.cols, packed.format, packed.lanes) == (rows, cols, name, lanes)
    assert set(tiles.PLANES[name]) == set(planes)
    for field, plane in zip(tiles.PLANES[name], packed.planes, strict=True):
        back, bits = unpack(packed, plane), planes[field].reshape(rows, -1)
        if bits.dtype == torch.bfloat16:
            bits = bits.view(torch.int16)
        assert back[:rows].tobytes() == bits.contiguous().numpy().tobytes(), field
        assert not any(back[rows:].tobytes()), field
        assert plane.flags.c_contiguous
        assert plane.ctypes.data % memory.ALIGN == 0
    padding = tiles.padded(rows, lanes) / rows
    assert packed.nbytes == pytest.approx(raw.numel() * padding)


@given(rows=st.integers(1, 10**9), lanes=st.sampled_from([16, 32, 64, 128]))
def test_tiles_hold_every_row_once(rows, lanes):
    count = tiles.tile_count(rows, lanes)
    assert tiles.padded(rows, lanes) == count * lanes
    assert (count - 1) * lanes < rows <= count * lanes


def test_every_format_has_an_order_of_planes():
    assert set(tiles.PLANES) == set(FORMATS)
    assert max(map(len, tiles.PLANES.values())) == tiles.MAX_PLANES


def test_arguments_fill_four_places():
    packed = tiles.pack(arbitrary_bytes(5, 64, "Q4_1"), 64, "Q4_1", 16)
    arguments = packed.arguments()
    assert len(arguments) == 4
    assert all(a is p for a, p in zip(arguments, packed.planes, strict=False))
    assert arguments[3] == 0


@pytest.mark.parametrize("size", [1, 63, 4096, memory.HUGE, memory.HUGE + 3])
def test_memory_is_aligned_whole_and_its_own(size):
    one, other = memory.zeros((size,), np.uint8), memory.zeros((size,), np.uint8)
    for array in (one, other):
        assert array.shape == (size,) and array.ctypes.data % memory.ALIGN == 0 and not array.any()
    one.fill(255)
    assert not other.any()
    del other
    assert one.all()
