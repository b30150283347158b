"""A quantized activation vector: how close its planes are to its values, and where each byte lies."""

import pytest
import torch

from kernel_templates.cuda.vector import GROUP, LARGEST, Vector, byte_places

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
    vector = filled(torch.full((256,), tiny), None, activation)
    assert not vector.high.any() and not vector.low.any() and vector.scale.isfinite().all()
    assert torch.equal(vector.quantized(activation), torch.zeros(256))


def test_the_first_elements_are_a_vector_of_their_own() -> None:
    """Whatever the rest is: of layers that share a vector some need less of it."""
    whole, values = Vector.allocate(SIZE, "cpu"), values_of(size=96)
    whole.first(96).fill(values)
    alone = filled(values)
    for found, wanted in zip(whole.first(96).pointers, alone.pointers, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(whole.values[:96], values) and whole.values[96:].isnan().all()
    assert whole.scale[12:].isnan().all() and (whole.high == -86).sum() >= whole.high.numel() - 96


def test_order_of_bytes() -> None:
    """First halves of eight runs fill 128 bytes, word w being elements 8w..8w+3; their second halves, 8w+4..8w+7, the
    128 bytes behind."""
    places = byte_places(512).tolist()
    assert sorted(places) == list(range(512))
    for element, place in enumerate(places):
        block, e = divmod(element, 256)
        assert place == block * 256 + e % 8 // 4 * 128 + e // 8 * 4 + e % 4
    values = torch.arange(64).float() + 1
    values[7::8] = 127.0  # every group's largest: a step is 1 in int8
    vector = filled(values, None, "int8")
    assert torch.equal(vector.high[places[:64]].float(), values)


def test_eight_threads_read_one_line() -> None:
    """Each its run's first halves, or its second ones, 16 bytes side by side."""
    halves = byte_places(1024).view(-1, 8, 4, 2, 4)
    for lane_bytes in halves.permute(0, 3, 1, 2, 4).reshape(-1, 8, 16):  # [line, run, byte]
        assert torch.equal(lane_bytes.reshape(-1), torch.arange(128) + lane_bytes[0, 0]) and lane_bytes[0, 0] % 128 == 0


@pytest.mark.parametrize("size", [32, 576])
def test_planes_are_whole_blocks(size: int) -> None:
    """Where an element lies does not depend on how many there are; nobody writes behind them."""
    vector = filled(values_of(size=size))
    assert vector.size == size and vector.high.shape == vector.low.shape == (-(-size // 256) * 256,)
    assert torch.equal(byte_places(size), byte_places(1024)[:size])
    written = torch.zeros(vector.high.numel(), dtype=torch.bool)
    written[byte_places(size)] = True
    assert (vector.high[~written] == -86).all() and (vector.low[~written] == 170).all()


def test_high_and_low_bytes_make_the_number() -> None:
    """256 * high + low, high signed and low unsigned; and words are four bytes that lie together."""
    values = torch.arange(32).float() * 1000 - 16000
    values[7::8] = 32767.0
    vector = filled(values)
    number = vector.high.int() * 256 + vector.low.int()
    assert torch.equal(number[byte_places(32)].float(), values)
    _, high, low, _, _ = vector.pointers
    assert high.shape == low.shape == (64,) and high.dtype == low.dtype == torch.int32
    assert high.data_ptr() == vector.high.data_ptr()


@pytest.mark.parametrize("size", [1, 8, 31, 33, 575])
def test_whole_runs_only(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} elements does not divide into runs of 32"):
        Vector.allocate(size, "cpu")


def test_what_nobody_wrote_is_seen() -> None:
    vector = Vector.allocate(64, "cpu")
    assert vector.values.isnan().all() and vector.scale.isnan().all() and vector.squares.isnan().all()
    assert vector.quantized().isnan().all()
