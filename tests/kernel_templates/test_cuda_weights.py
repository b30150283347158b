"""Packing weights for a GPU: nothing lost, nothing added, whatever the format; and how a row's columns lie."""

import numpy as np
import pytest
import torch
from kernel_harness import widened

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import weights
from kernel_templates.cuda.vector import memory_order
from kernel_templates.operation import Weight

ALL = list(formats.FORMATS)


def weight(name: str, rows: int, cols: int = 512, seed: int = 0) -> Weight:
    return random_inputs.weight(rows, cols, name, np.random.default_rng(seed))


def any_bytes(name: str, rows: int, cols: int) -> Weight:
    """Whatever bits a file may hold, except floats that are no numbers: those are equal to nothing."""
    size = formats.get(name).row_bytes(cols)
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (rows, size), np.uint8))
    value = formats.get(name).dequantize(raw)
    return Weight(raw[value.isfinite().all(1)], cols, name)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [1, 40])
def test_nothing_is_lost_and_nothing_added(name: str, rows: int) -> None:
    given = weight(name, rows)
    planes = weights.pack([given], "cpu")
    assert (planes.format, planes.rows, planes.cols) == (name, rows, 512)
    assert torch.equal(weights.unpack(planes), formats.get(name).dequantize(given.raw))
    assert planes.nbytes == rows * (given.raw.shape[1] + 512 // formats.get(name).block * widened(formats.get(name)))


@pytest.mark.parametrize("name", ALL)
def test_whatever_the_bytes_say(name: str) -> None:
    given = any_bytes(name, 400, max(formats.get(name).block, 32))
    assert given.rows > 10
    found, wanted = weights.unpack(weights.pack([given], "cpu")), formats.get(name).dequantize(given.raw)
    assert torch.equal(found, wanted) and torch.equal(found.signbit(), wanted.signbit())


@pytest.mark.parametrize("name", ALL)
def test_several_matrices_lie_one_below_the_other(name: str) -> None:
    parts = [weight(name, rows, 256, seed=rows) for rows in (5, 1, 18)]
    planes = weights.pack(parts, "cpu")
    assert planes.rows == 24 and planes.nbytes == sum(weights.pack([part], "cpu").nbytes for part in parts)
    assert torch.equal(weights.unpack(planes), torch.cat([formats.get(name).dequantize(part.raw) for part in parts]))


def test_a_head_is_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights.pack([weight("Q6_K", 50)], "cpu")
    monkeypatch.setattr(weights, "_CHUNK_ROWS", 16)
    parts = weights.pack([weight("Q6_K", 50)], "cpu")
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors, parts.tensors, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_kernels_always_take_four_planes(name: str) -> None:
    planes = weights.pack([weight(name, 3)], "cpu")
    assert len(planes.pointers) == 4 and all(t.is_contiguous() and t.data_ptr() % 16 == 0 for t in planes.tensors)
    assert planes.tensors[0].dtype in (torch.int32, torch.int64)  # what one load brings is words


@pytest.mark.parametrize("other", [("Q4_1", 256), ("Q4_0", 512)])
def test_only_what_fits_together(other: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="one format and width"):
        weights.pack([weight("Q4_0", 8, 256), weight(other[0], 8, other[1])], "cpu")


def test_columns_lie_as_a_vector_s_elements_do() -> None:
    """Q8_0 quants that count columns: byte by byte the order of an activation's planes."""
    quants = np.tile(np.arange(32, dtype=np.int8), 2)
    row = b"".join(np.float16(1).tobytes() + quants[32 * b : 32 * b + 32].tobytes() for b in range(2))
    given = Weight(torch.frombuffer(bytearray(row), dtype=torch.uint8)[None], 64, "Q8_0")
    packed = weights.pack([given], "cpu").tensors[0].contiguous().view(torch.int8).view(-1)
    assert torch.equal(packed.long(), memory_order(64) % 32)


def test_nibbles_lie_where_one_word_meets_two_of_a_vector() -> None:
    """Word w of a run: columns 8w..8w+3 in its bytes' low nibbles, 8w+4..8w+7 in their high ones."""
    levels = torch.arange(32) % 16
    block = (levels[:16] | (levels[16:] << 4)).to(torch.uint8)  # ggml: byte j holds columns j and j + 16
    one = torch.tensor([1, 0], dtype=torch.float16).view(torch.uint8)
    packed = weights.pack([Weight(torch.cat([one, block])[None], 32, "Q4_1")], "cpu").tensors[0]
    found = packed.contiguous().view(torch.uint8).view(4, 4)
    columns = torch.arange(32).view(4, 2, 4)
    assert torch.equal((found & 15).long(), levels[columns[:, 0]])
    assert torch.equal((found >> 4).long(), levels[columns[:, 1]])
