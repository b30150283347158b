"""Packing moves every byte of a matrix to where a kernel reads it, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import widened

from kernel_templates import formats, memory
from kernel_templates.cpu import tiles
from kernel_templates.formats import FORMATS, Format, codec
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Floats


def arbitrary_bytes(rows: int, cols: int, name: str, seed: int = 0) -> torch.Tensor:
    data = np.random.default_rng(seed).integers(0, 256, (rows, formats.get(name).row_bytes(cols)), np.uint8)
    return torch.from_numpy(data)


def unpack(packed: tiles.Tiles, plane: np.ndarray) -> np.ndarray:
    """[tile][...][lane] -> [padded rows, ...], by numpy alone."""
    return plane.transpose(0, 2, 1).reshape(tiles.padded(packed.rows, packed.lanes), -1)


def fields_bytes(fmt: Format, planes: list[np.ndarray]) -> np.ndarray:
    """A tile's planes, [rows, ...] each, as the file's bytes."""
    layout, rows = fmt.layout, len(planes[0])
    if isinstance(layout, Floats):
        return np.ascontiguousarray(planes[0]).view(np.uint8)
    named = {
        name: torch.from_numpy(plane).contiguous().view(torch.uint8).view(rows, -1, size)
        for (name, size), plane in zip(tiles.plane_bytes(layout).items(), planes, strict=True)
    }
    quants = codec.read_bits(named["low"], tiles.word_bits(layout.quants.low), layout.size)
    if layout.quants.high is not None:
        high = codec.read_bits(named["high"], tiles.word_bits(layout.quants.high), layout.size)
        quants = quants | (high << layout.quants.low.width)
    stored = torch.uint8 if layout.exponent else torch.float16
    scales = [codec.reinterpret(named[name], stored) for name in ("scale", "minimum") if name in named]
    scale, *minimum = torch.cat(scales, -1).unbind(-1)
    codes = named["codes"].split(layout.groups, -1) if "codes" in named else ()
    kinds = (layout.subscales, layout.subminimums)
    subs = [numbers + kind.zero for numbers, kind in zip(codes, kinds, strict=False)]
    fields = Fields(quants, scale, minimum[0] if minimum else None, *subs)
    return codec.write(fields, layout).view(rows, -1).numpy()


@given(
    name=st.sampled_from(sorted(FORMATS)),
    rows=st.integers(1, 300),
    blocks=st.integers(1, 3),
    lanes=st.sampled_from([16, 32, 48, 64, 128]),
)
@settings(max_examples=80)
def test_packing_loses_nothing_and_pads_with_zeros(name, rows, blocks, lanes):
    fmt, cols = formats.get(name), max(formats.get(name).block, 32) * blocks
    raw = arbitrary_bytes(rows, cols, name, rows)
    packed = tiles.pack(raw, cols, name, lanes)
    assert (packed.rows, packed.cols, packed.format, packed.lanes) == (rows, cols, name, lanes)
    back = [unpack(packed, plane) for plane in packed.planes]
    assert np.array_equal(fields_bytes(fmt, [plane[:rows] for plane in back]), raw.numpy())
    for plane, unpacked in zip(packed.planes, back, strict=True):
        assert not any(unpacked[rows:].tobytes())
        assert plane.flags.c_contiguous
        assert plane.ctypes.data % memory.ALIGN == 0
    assert packed.nbytes == tiles.padded(rows, lanes) * (raw.shape[1] + cols // fmt.block * widened(fmt))


@given(rows=st.integers(1, 10**9), lanes=st.sampled_from([16, 32, 64, 128]))
def test_tiles_hold_every_row_once(rows, lanes):
    count = tiles.tile_count(rows, lanes)
    assert tiles.padded(rows, lanes) == count * lanes
    assert (count - 1) * lanes < rows <= count * lanes


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
