"""Expanding packed weights for products: the kernel against the format's own dequantize, rounded once to float16."""

import numpy as np
import pytest
import torch
from some_formats import few

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, weights
from kernel_templates.cuda.launch import INTERPRETED

ROWS, COLS = 37, 256 * 9  # 10656 groups of 8: ten whole programs and a part of one


@pytest.mark.parametrize("name", few())
def test_values_are_the_format_s(name: str) -> None:
    weight = random_inputs.weight(ROWS, COLS, name, np.random.default_rng(0))
    planes, wanted = weights.pack([weight], "cpu"), formats.get(name).dequantize(weight.raw).half()
    out = torch.full((ROWS * COLS + 8,), float("nan"), dtype=torch.float16)
    expand.launch(planes, out).run(INTERPRETED)
    # A minimum is added after a product that a GPU may not round in between: half a float32 step, seldom a float16 one.
    difference = (out[:-8].view(ROWS, COLS).float() - wanted.float()).abs()
    assert (difference <= wanted.float().abs() * 2**-10 * planes.traits.minimum).all()
    assert out[-8:].isnan().all()  # nothing past the end
