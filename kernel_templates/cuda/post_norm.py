"""A norm between a product and the residual stream: x += y / rms(y) * post_norm, and x quantized for its next reader.

The norm needs all of y before any of x, so the product (`product.residual_product` without ADD) leaves y and its
squares by groups of 8, and a kernel of its own follows, chained by programmatic dependent launch. The other way, in
which the product's last program (found by an atomic counter) goes on alone, saves the launch, but waits for the counter
about as long and then has one multiprocessor for the whole vector; no GPU has compared the two yet. Here every program
sums all squares for itself (size / 8 numbers from the second-level cache, asked for together with its part of y and x),
so that programs need not meet. They are of one warp, which sums without shared memory and finds room beside the
product's programs: both norms' weights are there before the product ends.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import group_places, store_groups
from kernel_templates.cuda.vector import GROUP, Vector
from kernel_templates.operation import Inputs

ROWS = 128
"""Of a program: 4 a thread."""
PARTS = 1024
"""Sums of squares read at once, 32 a thread."""


@triton.jit
def post_norm_residual(
    y, y_squares, post_norm, next_norm, eps, values, high, low, scale, squares, out_scale,
    SIZE: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """values [SIZE] += y / rms(y) * post_norm, then times out_scale float32 [1] unless it is None, quantized as
    values * next_norm."""
    if PDL:
        gdc_launch_dependents()
    g, e = group_places(tl.program_id(0), ROWS, ASM)
    at, inside = g * 8 + e, g < SIZE // 8
    weight = tl.load(post_norm + at, mask=inside, other=0.0)
    following = tl.load(next_norm + at, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
    branch = tl.load(y + at, mask=inside, other=0.0)
    before = tl.load(values + at, mask=inside, other=0.0)
    p = tl.arange(0, PARTS)
    parts = tl.zeros([PARTS], tl.float32)
    for first in tl.static_range(0, SIZE // 8, PARTS):
        parts += tl.load(y_squares + first + p, mask=first + p < SIZE // 8, other=0.0)
    factor = tl.rsqrt(tl.sum(parts, 0) * (1.0 / SIZE) + eps)
    v = before + branch * factor * weight
    if out_scale is not None:
        v *= tl.load(out_scale)
    store_groups(values, high, low, scale, squares, g, e, v, v * following, inside, ACT, ASM)


def launch(branch: Vector, x: Vector, buffers: Mapping[str, Any], bits: int, name: str, scaled: bool = False) -> Launch:
    """branch: y with its squares; buffers: "post_norm", "next_norm" float32 [size], "eps" and, if `scaled`, "out_scale"
    float32 [1]; bits: of x's planes."""
    arguments = (
        branch.values, branch.squares, buffers["post_norm"], buffers["next_norm"], buffers["eps"], *x.pointers,
        buffers["out_scale"] if scaled else None,
    )  # fmt: skip
    parts = min(triton.next_power_of_2(x.size // GROUP), PARTS)
    constants = {"SIZE": x.size, "PARTS": parts, "ROWS": ROWS, "ACT": bits}
    return Launch(name, post_norm_residual, (triton.cdiv(x.size, ROWS),), arguments, constants, warps=1)


def prepare(size: int, inputs: Inputs, device: str) -> dict[str, Any]:
    """What an operation with a post norm has beside its other buffers: the norm's weights, "eps" and the "branch"."""
    weights = torch.from_numpy(inputs.buffers["post_norm"][:size].copy()).to(device)
    made = {"post_norm": weights, "eps": float(inputs.buffers["eps"][0]), "branch": Vector.allocate(size, device)}
    if "out_scale" in inputs.buffers:
        made["out_scale"] = torch.from_numpy(inputs.buffers["out_scale"][:1].copy()).to(device)
    return made
