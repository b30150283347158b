"""The end of a mixture beside a network: what either gives is normed by itself, their sum once more, and added to x.

    s = rmsnorm(y) y_norm + rmsnorm(z) z_norm;  x += rmsnorm(s) post_norm

The last norm needs all of s before any of x. As in `post_norm` every program works that out for itself, of y and z as
the products left them, so that programs need not meet and s is never in memory. Over many rows s is the branch that
`add_norm` adds.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from collections.abc import Mapping
from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import group_places, store_groups
from kernel_templates.cuda.vector import GROUP, Vector

ROWS, WARPS = 256, 4
"""Of a program: 2 elements a thread."""
TILE, PARTS = 1024, 1024
"""Elements of the sum that are looked at together, 8 a thread, and sums of squares."""


@triton.jit
def sum_normed_residual(
    y, y_squares, z, z_squares, y_norm, z_norm, post_norm, next_norm, eps,
    values, high, low, scale, squares, out_scale,
    SIZE: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """values [SIZE] += rmsnorm(s) * post_norm, then times out_scale float32 [1] unless it is None, quantized as
    values * next_norm."""
    if PDL:
        gdc_launch_dependents()
    g, e = group_places(tl.program_id(0), ROWS, ASM)
    at, inside = g * 8 + e, g < SIZE // 8
    # The programs together bring the norms into the second-level cache, where each reads all of them.
    own_y_norm = tl.load(y_norm + at, mask=inside, other=0.0)
    own_z_norm = tl.load(z_norm + at, mask=inside, other=0.0)
    weight = tl.load(post_norm + at, mask=inside, other=0.0)
    following = tl.load(next_norm + at, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
    before = tl.load(values + at, mask=inside, other=0.0)
    own_y = tl.load(y + at, mask=inside, other=0.0) * own_y_norm
    own_z = tl.load(z + at, mask=inside, other=0.0) * own_z_norm
    p = tl.arange(0, PARTS)
    y_parts = tl.zeros([PARTS], tl.float32)
    z_parts = y_parts
    for first in tl.static_range(0, SIZE // 8, PARTS):
        y_parts += tl.load(y_squares + first + p, mask=first + p < SIZE // 8, other=0.0)
        z_parts += tl.load(z_squares + first + p, mask=first + p < SIZE // 8, other=0.0)
    c = tl.arange(0, TILE)
    ys, zs = (), ()
    for first in tl.static_range(0, SIZE, TILE):
        there = first + c < SIZE
        ys = ys + (tl.load(y + first + c, mask=there, other=0.0) * tl.load(y_norm + first + c, mask=there, other=0.0),)
        zs = zs + (tl.load(z + first + c, mask=there, other=0.0) * tl.load(z_norm + first + c, mask=there, other=0.0),)
    y_factor = tl.rsqrt(tl.sum(y_parts, 0) * (1.0 / SIZE) + eps)
    z_factor = tl.rsqrt(tl.sum(z_parts, 0) * (1.0 / SIZE) + eps)
    parts = tl.zeros([TILE], tl.float32)
    for i in tl.static_range(len(ys)):
        s = ys[i] * y_factor + zs[i] * z_factor
        parts += s * s
    factor = tl.rsqrt(tl.sum(parts, 0) * (1.0 / SIZE) + eps)
    v = before + (own_y * y_factor + own_z * z_factor) * factor * weight
    if out_scale is not None:
        v *= tl.load(out_scale)
    store_groups(values, high, low, scale, squares, g, e, v, v * following, inside, ACT, ASM)


def launch(mixed: Vector, shared: Vector, x: Vector, buffers: Mapping[str, Any], bits: int, scaled: bool) -> Launch:
    """mixed, shared: what the chosen experts give and the network beside them, with their squares; buffers:
    "experts_post_norm", "shared_post_norm", "post_norm", "next_norm" float32 [size], "eps" and, if `scaled`,
    "out_scale" float32 [1]; bits: of x's planes."""
    norms = (buffers[name] for name in ("experts_post_norm", "shared_post_norm", "post_norm", "next_norm"))
    arguments = (
        mixed.values, mixed.squares, shared.values, shared.squares, *norms, buffers["eps"], *x.pointers,
        buffers["out_scale"] if scaled else None,
    )  # fmt: skip
    constants = {
        "SIZE": x.size, "TILE": min(triton.next_power_of_2(x.size), TILE),
        "PARTS": min(triton.next_power_of_2(x.size // GROUP), PARTS), "ROWS": ROWS, "ACT": bits,
    }  # fmt: skip
    return Launch("down_norms", sum_normed_residual, (triton.cdiv(x.size, ROWS),), arguments, constants, warps=WARPS)


@triton.jit
def sum_normed(
    y, z, y_norm, z_norm, eps,
    HIDDEN: tl.constexpr, TILE: tl.constexpr, FACTOR: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """y float32 [rows, HIDDEN] = rmsnorm(y) * y_norm + rmsnorm(z FACTOR) * z_norm. Program: a row."""
    if PDL:
        gdc_launch_dependents()
    c = tl.arange(0, TILE)
    inside = c < HIDDEN
    first = tl.program_id(0).to(tl.int64) * HIDDEN
    y_weight = tl.load(y_norm + c, mask=inside, other=0.0)
    z_weight = tl.load(z_norm + c, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
    v = tl.load(y + first + c, mask=inside, other=0.0)
    w = tl.load(z + first + c, mask=inside, other=0.0) * FACTOR
    v_factor = tl.rsqrt(tl.sum(v * v, 0) * (1.0 / HIDDEN) + eps)
    w_factor = tl.rsqrt(tl.sum(w * w, 0) * (1.0 / HIDDEN) + eps)
    tl.store(y + first + c, v * v_factor * y_weight + w * w_factor * z_weight, mask=inside)


def rows_launch(
    y: torch.Tensor, z: torch.Tensor, norms: tuple[torch.Tensor, torch.Tensor], eps: float, factor: float
) -> Launch:
    """y, z: float32 [rows, hidden]; norms: of either, float32 [hidden]; see `sum_normed`."""
    rows, hidden = y.shape
    tile = triton.next_power_of_2(hidden)
    constants = {"HIDDEN": hidden, "TILE": tile, "FACTOR": factor}
    return Launch("branch_norms", sum_normed, (rows,), (y, z, *norms, eps), constants, min(max(tile // 256, 1), 16))
