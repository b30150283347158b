"""From a tile's sums, which lie across a warp's lanes, to rows: each row's total in lanes of its own.

EACH rows of 32 partial sums take 5 EACH exchanges between lanes if each is summed by itself. Here lanes give away half
of their rows at each step and take over the other half of the rest: 4 + 2 + 1 + 1 + 1 exchanges for 8 rows. And what
follows (adding the residual, gating, quantizing, storing) is done once for all rows, side by side.
"""

import triton.language as tl

from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def row_places(row, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, ASM: tl.constexpr):
    """The row of each lane, int32 [UNITS, GROUPS] from `row` on, and whether the lane is the row's first. Where a row
    lies across warps, all of them have it."""
    LANES: tl.constexpr = UNITS if UNITS < 32 else 32
    u = tl.arange(0, UNITS)[:, None]
    lane = u if UNITS <= 32 else u % 32
    at = row + tl.arange(0, GROUPS)[None, :] * EACH + lane // (LANES // EACH)
    once = lane % (LANES // EACH) == 0
    if UNITS > 32:
        once = once & (u < 32)
    return opaque(at, ASM), once


@triton.jit
def to_lanes(acc, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, ASM: tl.constexpr):
    """float32 [UNITS, GROUPS, EACH] summed over units -> [UNITS, GROUPS]: with LANES = min(UNITS, 32), lane l has the
    total of row l // (LANES / EACH), in every warp that the row lies across: so what follows stays in a tile's layout,
    which this relies on: units across lanes, then warps. EACH is at most LANES."""
    LANES: tl.constexpr = UNITS if UNITS < 32 else 32
    if not ASM:
        rows = tl.trans(tl.sum(acc, 0))[:, None, :]
        total = tl.reshape(tl.broadcast_to(rows, [EACH, LANES // EACH, GROUPS]), [1, LANES, GROUPS])
        return tl.reshape(tl.broadcast_to(total, [UNITS // LANES, LANES, GROUPS]), [UNITS, GROUPS])
    else:
        u = tl.arange(0, UNITS)[:, None, None]
        if EACH == 8:
            acc = _halve(acc, u, LANES // 2, 8, GROUPS, UNITS)
        if EACH >= 4:
            acc = _halve(acc, u, LANES * 2 // EACH, 4, GROUPS, UNITS)
        if EACH >= 2:
            acc = _halve(acc, u, LANES // EACH, 2, GROUPS, UNITS)
        total = tl.reshape(acc, [UNITS, GROUPS])
        if LANES // EACH > 16:
            total += _swap(total, 16)
        if LANES // EACH > 8:
            total += _swap(total, 8)
        if LANES // EACH > 4:
            total += _swap(total, 4)
        if LANES // EACH > 2:
            total += _swap(total, 2)
        if LANES // EACH > 1:
            total += _swap(total, 1)
        if UNITS > 32:  # a row lies across warps
            by_warp = tl.reshape(total, [UNITS // 32, 32, GROUPS])
            total = tl.reshape(tl.broadcast_to(tl.sum(by_warp, 0, keep_dims=True), by_warp.shape), [UNITS, GROUPS])
        return total


@triton.jit
def _halve(acc, u, MASK: tl.constexpr, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr):
    """[UNITS, GROUPS, EACH] -> half the rows: lanes with the bit MASK go on with the upper ones."""
    a, b = tl.split(tl.permute(tl.reshape(acc, [UNITS, GROUPS, 2, EACH // 2]), (0, 1, 3, 2)))
    upper = (u & MASK) != 0
    return tl.where(upper, b, a) + _swap(tl.where(upper, a, b), MASK)


@triton.jit
def _swap(x, MASK: tl.constexpr):
    """What the lane has whose number differs in the bit MASK."""
    return tl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, $2, 31, 0xffffffff;", "=r,r,r", [x, MASK], dtype=tl.float32, is_pure=True, pack=1
    )
