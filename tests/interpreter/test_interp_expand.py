"""Expanding packed weights for prefill: the kernel against the format's own dequantize, rounded once to float16."""

import numpy as np
import pytest
import torch
from some_formats import few

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, traits, weights
from kernel_templates.cuda.launch import INTERPRETED

ROWS, COLS = 37, 256 * 9  # 10656 groups of 8: ten whole programs and a part of one


def packed(name: str, rows: int = ROWS, cols: int = COLS, seed: int = 0) -> tuple[weights.Planes, torch.Tensor]:
    """Packed planes and their values as float16."""
    weight = random_inputs.weight(rows, cols, name, np.random.default_rng(seed))
    planes = weights.pack([weight], "cpu")
    return planes, formats.get(name).dequantize(weight.raw).to(expand.dtype(planes))


@pytest.mark.parametrize("name", few([name for name in formats.FORMATS if traits.of_format(name).kind != "f32"]))
def test_values_are_the_format_s(name: str) -> None:
    planes, wanted = packed(name)
    out = torch.full((ROWS * COLS + 8,), float("nan"), dtype=expand.dtype(planes))
    expand.launch(planes, out).run(INTERPRETED)
    # A minimum is added after a product that a GPU may not round in between: half a float32 step, seldom a float16 one.
    difference = (out[:-8].view(ROWS, COLS).float() - wanted.float()).abs()
    assert (difference <= wanted.float().abs() * 2**-10 * planes.traits.minimum).all()
    assert out[-8:].isnan().all()  # nothing past the end


@pytest.mark.parametrize("target", [INTERPRETED, None], ids=["kernel", "torch"])
def test_parts_lie_one_below_the_other(target) -> None:
    parts, wanted = zip(
        *[packed(name, rows, 64, rows) for name, rows in (("Q4_0", 8), ("Q8_0", 5), ("F16", 3))], strict=True
    )
    buffer = torch.full((2000,), float("nan"), dtype=torch.float16)
    assert torch.equal(expand.matrix(parts, buffer, target), torch.cat(wanted))
    assert buffer[16 * 64 :].isnan().all()


@pytest.mark.parametrize("target", [INTERPRETED, None], ids=["kernel", "torch"])
@pytest.mark.parametrize("name", [name for name, fmt in formats.FORMATS.items() if not fmt.quantized])
def test_floats_keep_their_type(name: str, target) -> None:
    planes, wanted = packed(name, 8, 32)
    found = expand.matrix([planes, planes], torch.empty(512, dtype=torch.float16), target)
    assert found.dtype == expand.dtype(planes) and torch.equal(found, torch.cat([wanted, wanted]))
    alone = expand.matrix([planes], torch.empty(256, dtype=torch.float16), target)
    assert (alone.data_ptr() == planes.tensors[0].data_ptr()) == (planes.traits.kind == "f32")
