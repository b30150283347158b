"""Inputs of layers in passes over many tokens, in Triton's interpreter, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernel_templates.cuda import fragments
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.rows import layer_inputs

EPS = 1e-6
HALF = 2**-11
"""float16 rounds to so much of a number."""
LARGEST = 65504.0
WIDTHS = st.sampled_from([32, 48, 256, 1152])
TILES = st.sampled_from([256, layer_inputs.TILE])


def numbers(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def rms(x: Tensor) -> Tensor:
    """float64, over the last axis."""
    return (x.double().square().mean(-1, keepdim=True) + EPS).sqrt()


def mixed(x: Tensor, projected: Tensor, norm: Tensor, inputs: Tensor) -> Tensor:
    """float64: `PerLayerInputs` of rows whose products were given x / rms(x)."""
    y = (projected.double() * rms(x) / x.shape[1] ** 0.5).unflatten(1, (-1, norm.numel()))
    return ((y / rms(y) * norm.double()).flatten(1) + inputs.double()) / 2**0.5


def let_through(x: Tensor, y: Tensor, part: Tensor) -> Tensor:
    """float64: the first half of `InputGate`, as it is stored."""
    gate = torch.nn.functional.gelu(y.double() * rms(x), approximate="tanh")
    return (gate * part.double() * GATED_SCALE.value).clamp(-LARGEST, LARGEST)


def run_mix(x: Tensor, projected: Tensor, norm: Tensor, inputs: Tensor, tile: int = layer_inputs.TILE) -> Tensor:
    """What is left of inputs; what lies behind them is not written."""
    whole = torch.cat([inputs, torch.full((1, inputs.shape[1]), torch.nan)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_inputs, "TILE", tile)
        layer_inputs.mix(x, projected, norm, whole[:-1], EPS).run(INTERPRETED)
    assert whole[-1].isnan().all()
    return whole[:-1]


@settings(max_examples=12)
@given(
    rows=st.integers(1, 4), hidden=WIDTHS, layers=st.sampled_from([1, 5, 35]), size=st.sampled_from([32, 96, 256]),
    scale=st.sampled_from([1e-2, 1.0, 1e6]), tile=TILES, seed=st.integers(0, 99),
)  # fmt: skip
def test_parts_of_every_layer_are_mixed(
    rows: int, hidden: int, layers: int, size: int, scale: float, tile: int, seed: int
) -> None:
    """A program takes several layers, the last one fewer. scale: of x, which may not fit float16; tile: also rows that
    are summed in pieces."""
    x, projected = numbers(rows, hidden, seed=seed, size=scale), numbers(rows, layers * size, seed=seed + 1)
    norm, inputs = numbers(size, seed=seed + 2), numbers(rows, layers * size, seed=seed + 3)
    found = run_mix(x, projected, norm, inputs, tile)
    torch.testing.assert_close(found.double(), mixed(x, projected, norm, inputs), rtol=1e-5, atol=1e-5)


def test_what_is_added_to_the_square_of_small_products() -> None:
    """eps stands behind the division by the root of hidden, and counts where products are as small as its root."""
    x, projected, inputs = numbers(2, 64, size=1e-3), numbers(2, 96, seed=1), torch.zeros(2, 96)
    wanted = mixed(x, projected, torch.ones(32), inputs)
    torch.testing.assert_close(run_mix(x, projected, torch.ones(32), inputs).double(), wanted, rtol=1e-5, atol=1e-6)
    assert wanted.square().mean() < 0.1  # of large products it is a half


@settings(max_examples=16)
@given(
    rows=st.integers(1, 4), hidden=WIDTHS, layers=st.integers(1, 4), size=st.sampled_from([32, 96, 256]),
    order=st.sampled_from(fragments.ORDERS), tile=TILES, data=st.data(),
)  # fmt: skip
def test_a_layer_s_part_is_let_through(
    rows: int, hidden: int, layers: int, size: int, order: int, tile: int, data: st.DataObject
) -> None:
    """In every order of columns; places that no column has stay as they are."""
    layer, seed = data.draw(st.integers(0, layers - 1)), data.draw(st.integers(0, 99))
    x, y = numbers(rows, hidden, seed=seed, size=3.0), numbers(rows, size, seed=seed + 1)
    inputs = numbers(rows, layers * size, seed=seed + 2)
    out = torch.full((rows + 1, fragments.width(size, order)), torch.nan, dtype=torch.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_inputs, "TILE", tile)
        layer_inputs.gate(x, y, inputs, layer * size, out[:rows], EPS, order).run(INTERPRETED)
    wanted = let_through(x, y, inputs[:, layer * size :][:, :size])
    places = fragments.places(size, order)
    torch.testing.assert_close(out[:rows, places].double(), wanted, rtol=2 * HALF, atol=1e-6)
    out[:rows, places] = torch.nan
    assert out.isnan().all()


def test_what_is_too_large_for_float16_is_its_largest() -> None:
    """And a gate of large negative numbers is closed."""
    x, y, inputs = torch.full((1, 32), 1e9), torch.zeros(1, 32), torch.ones(1, 32)
    y[0, :3], inputs[0, 1] = torch.tensor([1.0, 1.0, -1.0]), -1.0
    out = torch.full((1, 32), torch.nan, dtype=torch.float16)
    layer_inputs.gate(x, y, inputs, 0, out, EPS).run(INTERPRETED)
    assert out[0, :3].tolist() == [LARGEST, -LARGEST, 0.0] and not out[0, 3:].any()


def test_broken_numbers_of_a_row_are_its_own() -> None:
    x, y, inputs = numbers(3, 32), numbers(3, 32, seed=1), numbers(3, 32, seed=2)
    x[1, 5] = torch.nan
    found = run_mix(x, y, torch.ones(32), inputs)
    out = torch.zeros(3, 32, dtype=torch.float16)
    layer_inputs.gate(x, y, inputs, 0, out, EPS).run(INTERPRETED)
    for made in (found, out):
        assert made[1].isnan().all() and made[[0, 2]].isfinite().all()
