"""What stands between two products of many tokens: a branch goes into the residual stream, whose norm is read next.

    x += branch * factor + bias, or with a post norm x += rmsnorm(branch * factor + bias) * post_norm; then
    x *= out_scale, if there is one
    h = rmsnorm(x) * norm, as float16

Either half alone is a variant: a layer's first norm has no branch before it, the last branch no norm behind it.
"""

from dataclasses import KW_ONLY, dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import NATURAL, place
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.norm_between import HEADROOM

TILE = 8192
"""Elements of a row that stay in registers from the sum to the norm; longer rows are read again."""
EACH = 8
"""Elements a thread, as long as a program of that many threads may be."""
MOST_WARPS = 16


@dataclass(frozen=True)
class Branch:
    """y float32 [rows, hidden], what a product gave; it is added times `factor`, with a bias float32 [hidden] if there
    is one, or normed by post_norm float32 [hidden]; out_scale: float32 [1], what the sum is multiplied with, or
    None. What is a tensor has to be named: taken for one another, they are read beyond their ends."""

    y: torch.Tensor
    factor: float = 1.0
    _: KW_ONLY
    post_norm: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether it is y times the factor, and nothing more happens to the sum."""
        return self.post_norm is None and self.bias is None and self.out_scale is None


@dataclass(frozen=True)
class Norm:
    """weight float32 [hidden]; out float16 [rows, hidden]; after: float32 [rows], `norm_between`'s place of this norm,
    None where no norm without a kernel follows."""

    weight: torch.Tensor
    out: torch.Tensor
    order: int = NATURAL
    after: torch.Tensor | None = None


@triton.jit
def add_norm(
    x, branch, bias, post_norm, norm, h, eps, out_scale, after,
    HIDDEN: tl.constexpr, TILE: tl.constexpr, FACTOR: tl.constexpr, ADD: tl.constexpr, POST_NORM: tl.constexpr,
    NORM: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program: a row. ADD: x is written; NORM: h is. Pointers that a variant does not follow may be any. bias: float32
    [HIDDEN], or None; after: float32 [rows], the norm's scale for one that follows without a kernel, or None."""
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    x += row * HIDDEN
    branch += row * HIDDEN
    h += row * WIDTH
    c = tl.arange(0, TILE)
    if PDL:
        gdc_wait()
    scale = 1.0
    if POST_NORM:
        squares = tl.zeros([TILE], tl.float32)
        for first in tl.static_range(0, HIDDEN, TILE):
            b = tl.load(branch + first + c, mask=first + c < HIDDEN, other=0.0) * FACTOR
            if bias is not None:
                b += tl.load(bias + first + c, mask=first + c < HIDDEN, other=0.0)
            squares += b * b
        scale = tl.rsqrt(tl.sum(squares, 0) * (1.0 / HIDDEN) + eps)
    if HIDDEN <= TILE:
        v = added(x, branch, bias, post_norm, out_scale, c, scale, HIDDEN, FACTOR, ADD, POST_NORM)
        if NORM:
            inverse = tl.rsqrt(tl.sum(v * v, 0) * (1.0 / HIDDEN) + eps)
            store_normed(h, norm, c, v * inverse, HIDDEN, ORDER)
            if after is not None:
                tl.store(after + row, inverse * HEADROOM)
    else:
        squares = tl.zeros([TILE], tl.float32)
        for first in tl.static_range(0, HIDDEN, TILE):
            v = added(x, branch, bias, post_norm, out_scale, first + c, scale, HIDDEN, FACTOR, ADD, POST_NORM)
            squares += v * v
        if NORM:
            inverse = tl.rsqrt(tl.sum(squares, 0) * (1.0 / HIDDEN) + eps)
            tl.debug_barrier()  # what is read again was written above
            for first in tl.static_range(0, HIDDEN, TILE):
                v = tl.load(x + first + c, mask=first + c < HIDDEN, other=0.0)
                store_normed(h, norm, first + c, v * inverse, HIDDEN, ORDER)
            if after is not None:
                tl.store(after + row, inverse * HEADROOM)


@triton.jit
def added(
    x, branch, bias, post_norm, out_scale, at, scale,
    HIDDEN: tl.constexpr, FACTOR: tl.constexpr, ADD: tl.constexpr, POST_NORM: tl.constexpr,
):  # fmt: skip
    """Elements `at` of a row of x, float32, after they are written back if ADD. scale: the post norm's."""
    inside = at < HIDDEN
    v = tl.load(x + at, mask=inside, other=0.0)
    if ADD:
        b = tl.load(branch + at, mask=inside, other=0.0) * FACTOR
        if bias is not None:
            b += tl.load(bias + at, mask=inside, other=0.0)
        if POST_NORM:
            b = b * scale * tl.load(post_norm + at, mask=inside, other=0.0)
        v += b
        if out_scale is not None:
            v *= tl.load(out_scale)
        tl.store(x + at, v, mask=inside)
    return v


@triton.jit
def store_normed(h, norm, at, v, HIDDEN: tl.constexpr, ORDER: tl.constexpr):
    inside = at < HIDDEN
    tl.store(h + place(at, ORDER), to_half(v * tl.load(norm + at, mask=inside, other=0.0)), mask=inside)


def launch(name: str, x: torch.Tensor, branch: Branch | None, norm: Norm | None, eps: float) -> Launch:
    """x float32 [rows, hidden]; at least one of `branch` and `norm`."""
    rows, hidden = x.shape
    tile = min(triton.next_power_of_2(hidden), TILE)
    post_norm = x if branch is None or branch.post_norm is None else branch.post_norm
    arguments = (
        x, x if branch is None else branch.y, None if branch is None else branch.bias, post_norm,
        *((x, x) if norm is None else (norm.weight, norm.out)), eps, None if branch is None else branch.out_scale,
        None if norm is None else norm.after,
    )  # fmt: skip
    constants = {
        "HIDDEN": hidden,
        "TILE": tile,
        "FACTOR": 1.0 if branch is None else branch.factor,
        "ADD": branch is not None,
        "POST_NORM": branch is not None and branch.post_norm is not None,
        "NORM": norm is not None,
        "WIDTH": hidden if norm is None else norm.out.shape[1],
        "ORDER": NATURAL if norm is None else norm.order,
    }
    warps = min(max(tile // (32 * EACH), 1), MOST_WARPS)
    return Launch(name, add_norm, (rows,), arguments, constants, warps)
