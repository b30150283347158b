"""A quantized activation vector: how close its planes are to its values, and where each byte lies."""

import pytest
import torch

from kernel_templates.cuda.vector import GROUP, LARGEST, Vector, memory_order

SIZE = 320


def values_of(seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Groups of very different size, as residual streams have them."""
    made = torch.Generator().manual_seed(seed)
    scale = torch.exp(torch.randn(size // GROUP, generator=made) * 3).repeat_interleave(GROUP)
    return torch.randn(size, generator=made) * scale


def filled(values: torch.Tensor, norm: torch.Tensor | None = None, activation: str = "int16") -> Vector:
    vector = Vector.allocate(values.numel(), "cpu")
    vector.fill(values, norm, activation)
    return vector


@pytest.mark.parametrize("activation", ["int16", "int8"])
@pytest.mark.parametrize("normed", [False, True])
def test_planes_are_within_half_a_step(activation: str, normed: bool) -> None:
    values, norm = values_of(), values_of(1).abs() if normed else None
    vector = filled(values, norm, activation)
    wanted = values if norm is None else values * norm
    step = wanted.view(-1, GROUP).abs().amax(1) / LARGEST[activation]
    torch.testing.assert_close(vector.scale, step)
    error = (vector.quantized(activation) - wanted).view(-1, GROUP).abs()
    assert (error <= 0.5001 * step[:, None]).all()


def test_values_and_squares_are_not_multiplied_by_the_norm() -> None:
    values = values_of()
    vector = filled(values, torch.full((SIZE,), 3.0))
    assert torch.equal(vector.values, values) and vector.size == SIZE
    torch.testing.assert_close(vector.squares, values.double().square().view(-1, GROUP).sum(1).float())


@pytest.mark.parametrize("activation", ["int16", "int8"])
def test_the_largest_of_a_group_is_exact(activation: str) -> None:
    values = torch.zeros(32)
    values[5], values[9], values[30] = -1.0, 127 * 3.0, 32767 * 0.25
    assert torch.equal(filled(values, None, activation).quantized(activation), values)


@pytest.mark.parametrize("activation", ["int16", "int8"])
@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-38])
def test_zeros_and_what_is_next_to_nothing(activation: str, tiny: float) -> None:
    vector = filled(torch.full((64,), tiny), None, activation)
    assert not vector.high.any() and not vector.low.any() and vector.scale.isfinite().all()
    assert torch.equal(vector.quantized(activation), torch.zeros(64))


def test_the_first_elements_are_a_vector_of_their_own() -> None:
    """Whatever the rest is: of layers that share a vector some need less of it."""
    whole, values = Vector.allocate(SIZE, "cpu"), values_of(size=96)
    whole.first(96).fill(values)
    alone = filled(values)
    for found, wanted in zip(whole.first(96).pointers, alone.pointers, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(whole.values[:96], values) and whole.values[96:].isnan().all()
    assert whole.scale[12:].isnan().all() and (whole.high[96:] == -86).all()


def test_order_of_bytes() -> None:
    """Elements 8w..8w+3 in the first 16 bytes of a run, 8w+4..8w+7 in the others, w being the word."""
    order = memory_order(64)
    where = {int(element): at for at, element in enumerate(order)}
    for element in range(64):
        run, e = divmod(element, 32)
        assert where[element] == run * 32 + e % 8 // 4 * 16 + e // 8 * 4 + e % 4
    values = torch.arange(64).float() + 1
    values[7::8] = 127.0  # every group's largest: a step is 1 in int8
    vector = filled(values, None, "int8")
    assert torch.equal(vector.high.float(), values[order])


def test_high_and_low_bytes_make_the_number() -> None:
    """256 * high + low, high signed and low unsigned; and words are four bytes that lie together."""
    values = torch.arange(32).float() * 1000 - 16000
    values[7::8] = 32767.0
    vector = filled(values)
    number = vector.high.int() * 256 + vector.low.int()
    assert torch.equal(number.float(), values[memory_order(32)])
    _, high, low, _, _ = vector.pointers
    assert high.shape == low.shape == (8,) and high.dtype == low.dtype == torch.int32
    assert high.data_ptr() == vector.high.data_ptr()


@pytest.mark.parametrize("size", [1, 8, 31, 33, 575])
def test_whole_runs_only(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} elements does not divide into runs of 32"):
        Vector.allocate(size, "cpu")


def test_what_nobody_wrote_is_seen() -> None:
    vector = Vector.allocate(64, "cpu")
    assert vector.values.isnan().all() and vector.scale.isnan().all() and vector.squares.isnan().all()
    assert vector.quantized().isnan().all()
