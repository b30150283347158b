"""Where programs of attention meet: outputs into the next kernel's vector, or, of a split, to whoever joins the splits.

Outputs are [SIDE, LANES, WIDE, G heads, EACH], in which Triton gives the first axes to the lanes of a warp, WIDE to its
warps and the rest to a thread. So a quantization group lies in one or two threads, and lanes can take splits side by
side: nothing here goes from warp to warp.
"""

import triton
import triton.language as tl

from kernel_templates.cuda.instructions import opaque, reciprocal, round_to_int

LOWEST = tl.constexpr(-1.0e30)  # instead of -inf: the difference of two of them is 0 and no NaN
LOG2E = tl.constexpr(1.4426950408889634)


@triton.constexpr_function
def wide(dims, warps):
    """Warps that differ in elements, each having a group of 8 or more."""
    return min(warps, max(dims // 8, 1))


@triton.constexpr_function
def each(dims, warps):
    """Neighbouring elements of a thread: 4, or 8 if a warp would be too narrow otherwise."""
    return 4 if dims // wide(dims, warps) <= 128 else 8


@triton.constexpr_function
def side(dims, warps):
    return dims // wide(dims, warps) // each(dims, warps)


@triton.constexpr_function
def lanes(dims, warps):
    return 32 // side(dims, warps)


@triton.jit
def _element(DIMS: tl.constexpr, WARPS: tl.constexpr):
    """Element numbers, [SIDE, 1, WIDE, 1, EACH]."""
    SIDE: tl.constexpr = side(DIMS, WARPS)
    EACH: tl.constexpr = each(DIMS, WARPS)
    warp = tl.arange(0, wide(DIMS, WARPS))[None, None, :, None, None]
    of_side = tl.arange(0, SIDE)[:, None, None, None, None]
    return (warp * SIDE + of_side) * EACH + tl.arange(0, EACH)[None, None, None, None, :]


@triton.jit
def _first_element(DIMS: tl.constexpr, WARPS: tl.constexpr):
    """Of each thread, [SIDE, 1, WIDE, 1, 1]."""
    SIDE: tl.constexpr = side(DIMS, WARPS)
    warp = tl.arange(0, wide(DIMS, WARPS))[None, None, :, None, None]
    return (warp * SIDE + tl.arange(0, SIDE)[:, None, None, None, None]) * each(DIMS, WARPS)


@triton.jit
def _lane(DIMS: tl.constexpr, WARPS: tl.constexpr):
    return tl.arange(0, lanes(DIMS, WARPS))[None, :, None, None, None]


@triton.jit
def store_heads(
    out, high, low, scale, first_head, count, y,
    G: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr, ACT: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """y float32 [SIDE, 1, WIDE, G, EACH]: `count` heads from `first_head` on become elements of a `vector`.

    high, low: int32 pointers. Groups of 8 never cross heads. Every store has all lanes in its shape and one in its
    mask: otherwise Triton would lay it out anew, by way of shared memory.
    """
    SIDE: tl.constexpr = side(DIMS, WARPS)
    EACH: tl.constexpr = each(DIMS, WARPS)
    WIDE: tl.constexpr = wide(DIMS, WARPS)
    g = tl.arange(0, G)[None, None, None, :, None]
    start = (first_head + g) * HEAD_DIM + _first_element(DIMS, WARPS)
    keep = (_lane(DIMS, WARPS) == 0) & (g < count) & (_first_element(DIMS, WARPS) < HEAD_DIM)
    at = (first_head + g) * HEAD_DIM + _element(DIMS, WARPS) + _lane(DIMS, WARPS) * 0
    tl.store(out + at, tl.broadcast_to(y, at.shape), mask=tl.broadcast_to(keep, at.shape))
    if ACT != 0:
        limit: tl.constexpr = 32767.0 if ACT == 16 else 127.0
        largest = tl.max(tl.abs(y), 4, keep_dims=True)
        if EACH == 4:  # the neighbour on the side has the group's other half
            pair = tl.reshape(largest, [SIDE // 2, 2, 1, WIDE, G, 1])
            both = tl.broadcast_to(tl.max(pair, 1, keep_dims=True), pair.shape)
            largest = tl.reshape(both, [SIDE, 1, WIDE, G, 1])
        q = round_to_int(y * tl.where(largest > 1e-30, limit * reciprocal(largest, ASM), 0.0))
        e = tl.arange(0, EACH)[None, None, None, None, :]
        group = start // 8
        words = group // 4 * 8 + group % 4 + start % 8  # start % 8 is 0 or 4: the second half of a run is 4 words on
        words = opaque(tl.broadcast_to(words, keep.shape), ASM)
        for half in tl.static_range(EACH // 4):
            mine, shift = (e // 4) == half, e % 4 * 8
            upper = tl.where(mine, (((q >> 8) if ACT == 16 else q) & 255) << shift, 0)
            upper = tl.sum(upper, 4, keep_dims=True)
            tl.store(high + words + half * 4, tl.broadcast_to(upper, keep.shape), mask=keep)
            if ACT == 16:
                lower = tl.sum(tl.where(mine, (q & 255) << shift, 0), 4, keep_dims=True)
                tl.store(low + words + half * 4, tl.broadcast_to(lower, keep.shape), mask=keep)
        group = opaque(tl.broadcast_to(group, keep.shape), ASM)
        steps = tl.broadcast_to(largest * (1.0 / limit), keep.shape)
        tl.store(scale + group, steps, mask=keep & (start % 8 == 0))


@triton.jit
def leave_part(
    partial, split, first_head, count, y, log,
    G: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """y as in `store_heads` and log [1, 1, 1, G, 1], the logarithm of its weights' sum, of one split.

    partial: float32 [HEADS, SPLITS, HEAD_DIM], then [HEADS, SPLITS] logarithms.
    """
    g = tl.arange(0, G)[None, None, None, :, None]
    part = (first_head + g) * SPLITS + split
    lane, first = _lane(DIMS, WARPS), _first_element(DIMS, WARPS)
    keep = (lane == 0) & (g < count) & (first < HEAD_DIM)
    at = part * HEAD_DIM + _element(DIMS, WARPS) + lane * 0
    tl.store(partial + at, tl.broadcast_to(y, at.shape), mask=tl.broadcast_to(keep, at.shape))
    log_at = tl.broadcast_to(HEADS * SPLITS * HEAD_DIM + part, keep.shape)
    tl.store(partial + log_at, tl.broadcast_to(log, keep.shape), mask=keep & (first == 0))


@triton.jit
def join_splits(
    partial, first_head, count, used,
    G: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr,
    SPLITS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """y for `store_heads` from `used` parts. Read past the first-level cache, which other programs' stores do not
    reach."""
    LANES: tl.constexpr = lanes(DIMS, WARPS)
    g = tl.arange(0, G)[None, None, None, :, None]
    head = first_head + tl.minimum(g, count - 1)
    element, first = _element(DIMS, WARPS), _first_element(DIMS, WARPS)
    m = tl.full([side(DIMS, WARPS), LANES, wide(DIMS, WARPS), G, 1], LOWEST, tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    acc = tl.zeros([side(DIMS, WARPS), LANES, wide(DIMS, WARPS), G, each(DIMS, WARPS)], tl.float32)
    for j in tl.static_range((SPLITS + LANES - 1) // LANES):
        split = j * LANES + _lane(DIMS, WARPS)
        part = head * SPLITS + tl.minimum(split, SPLITS - 1)
        have = tl.broadcast_to((split < used) & (first < HEAD_DIM), m.shape)
        log_at = opaque(tl.broadcast_to(HEADS * SPLITS * HEAD_DIM + part, m.shape), ASM)
        log = tl.load(partial + log_at, mask=have, other=float("-inf"), cache_modifier=".cg")
        at = part * HEAD_DIM + element
        y = tl.load(partial + at, mask=tl.broadcast_to(have, at.shape), other=0.0, cache_modifier=".cg")
        top = tl.maximum(m, log)
        kept, new = tl.exp2(m - top), tl.exp2(log - top)
        total = total * kept + new
        acc = acc * kept + y * new
        m = top
    weight = tl.exp2(m - tl.max(m, 1, keep_dims=True))
    total = tl.sum(total * weight, 1, keep_dims=True)
    return tl.sum(acc * weight, 1, keep_dims=True) * reciprocal(tl.where(total > 0, total, 1.0), ASM)


@triton.jit
def hand_over(
    out, high, low, scale, partial, counter, split, used, first_head, count, y, log,
    G: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr,
    SPLITS: tl.constexpr, LAST_COMBINES: tl.constexpr, ACT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The end of a program: store its outputs, or its part and, being the last of `used`, what all parts make.

    counter: int32, arrivals of these heads' splits, 0 before and after a token.
    """
    if SPLITS == 1:  # noqa: SIM114 - decided by the compiler, what follows when running
        store_heads(out, high, low, scale, first_head, count, y, G, HEAD_DIM, DIMS, WARPS, ACT, ASM)
    elif LAST_COMBINES and used == 1:
        store_heads(out, high, low, scale, first_head, count, y, G, HEAD_DIM, DIMS, WARPS, ACT, ASM)
    else:
        leave_part(partial, split, first_head, count, y, log, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS)
        if LAST_COMBINES:
            tl.debug_barrier()  # every thread's stores before the count: Triton puts no barrier there
            arrived = tl.atomic_add(counter, 1, sem="acq_rel")
            if arrived == used - 1:
                tl.store(counter, 0)  # for the next token
                y = join_splits(partial, first_head, count, used, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, ASM)
                store_heads(out, high, low, scale, first_head, count, y, G, HEAD_DIM, DIMS, WARPS, ACT, ASM)
