"""One row of the residual stream as decode's head reads it: a vector, quantized."""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import parameters
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import group_places, store_groups
from kernel_templates.cuda.vector import Vector

TILE = 256
"""Elements of a program."""


@triton.jit
def take_row(
    hidden, norm, values, high, low, scale, squares,
    HIDDEN: tl.constexpr, TILE: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program t: elements from t * TILE on."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    g, e = group_places(tl.program_id(0), TILE, ASM)
    inside = g < HIDDEN // 8
    v = tl.load(hidden + (g * 8 + e), mask=inside, other=0.0)
    n = v * tl.load(norm + (g * 8 + e), mask=inside, other=0.0)
    store_groups(values, high, low, scale, squares, g, e, v, n, inside, ACT, ASM)


def launch(hidden: torch.Tensor, norm: torch.Tensor, x: Vector, activation: str) -> Launch:
    """Reads hidden and norm, float32 [hidden]; writes x, quantized as hidden * norm."""
    constants = {"HIDDEN": x.size, "TILE": TILE, "ACT": parameters.bits(activation)}
    return Launch("take", take_row, (triton.cdiv(x.size, TILE),), (hidden, norm, *x.pointers), constants, warps=1)
