"""Packing weights for a GPU: nothing lost, nothing added, whatever the format; and how a row's columns lie."""

import numpy as np
import pytest
import torch
from kernel_harness import widened

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import fragments, weights
from kernel_templates.cuda.vector import byte_places
from kernel_templates.cuda.weights import Planes
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


@pytest.mark.parametrize("cols", [64, 256, 512, 576])
def test_columns_lie_as_a_vector_s_elements_do(cols: int) -> None:
    """Q8_0 quants that count columns: byte by byte the order of an activation's planes; in rows that are no whole
    blocks of these, the order of each run alone."""
    quants = np.arange(cols).astype(np.int8).reshape(-1, 32)
    row = b"".join(np.float16(1).tobytes() + block.tobytes() for block in quants)
    given = Weight(torch.frombuffer(bytearray(row), dtype=torch.uint8)[None], cols, "Q8_0")
    packed = weights.pack([given], "cpu").tensors[0].contiguous().view(torch.int8).view(-1)
    places = byte_places(cols) if cols % 256 == 0 else byte_places(cols, 1)
    assert torch.equal(packed[places], torch.from_numpy(quants).view(-1))


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


@pytest.mark.parametrize("name", ALL)
def test_matrices_of_one_pack_are_parts_of_it_and_together_it_again(name: str) -> None:
    whole = weights.pack([weight(name, 24, 256)], "cpu")
    parts = weights.split(whole, (5, 1, 18))
    values = weights.unpack(whole)
    assert all(torch.equal(weights.unpack(p), v) for p, v in zip(parts, values.split([5, 1, 18]), strict=True))
    for some, rows in ((parts, slice(None)), (parts[1:], slice(5, None)), (parts[:2], slice(6)), (parts[:1], slice(5))):
        found = weights.joined(some)
        assert found is not None and (found.format, found.cols, found.rows) == (name, 256, len(values[rows]))
        assert torch.equal(weights.unpack(found), values[rows])
        assert [t.data_ptr() for t in found.tensors] == [t.data_ptr() for t in some[0].tensors], "nothing is copied"


def test_matrices_that_are_not_one_below_the_other_are_not_one() -> None:
    above, middle, below = weights.split(weights.pack([weight("Q4_0", 24, 256)], "cpu"), (5, 1, 18))
    alone = weights.pack([weight("Q4_0", 1, 256)], "cpu")
    same_memory = Planes("Q4_1", 1, 256, middle.tensors)
    for parts in ((middle, above), (above, below), (above, alone), (above, above), (above, same_memory)):
        assert weights.joined(parts) is None


@pytest.mark.parametrize("sizes", [(5, 18), (5, 20)])
def test_parts_have_all_rows(sizes: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError, match="split_sizes"):
        weights.split(weights.pack([weight("Q4_0", 24, 256)], "cpu"), sizes)


def test_columns_for_tensor_cores_stay_in_their_group_of_128() -> None:
    for order in fragments.ORDERS:
        for cols in (32, 96, 128, 160, 576):
            places = fragments.places(cols, order)
            assert places.max() < fragments.width(cols, order) and len(places.unique()) == cols
            assert torch.equal(places // 128, torch.arange(cols) // 128)
            x = torch.arange(1.0, 2 * cols + 1).view(2, cols)
            arranged = fragments.arranged(x, order)
            assert torch.equal(arranged[:, places], x) and arranged.count_nonzero() == 2 * cols
