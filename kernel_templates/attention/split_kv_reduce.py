"""Where programs of attention meet: outputs into the next kernel's vector, or, of a split, into what joins the splits.

Outputs are [SIDE, LANES, WIDE, G heads, EACH], in which Triton gives the first axes to the lanes of a warp, WIDE to its
warps and the rest to a thread. So a quantization group lies in one or two threads, and lanes can take splits side by
side: nothing here goes from warp to warp.
"""

import triton.language as tl

from kernel_templates.attention.scores import sink_weight
from kernel_templates.cuda.instructions import opaque, reciprocal, round_to_int
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import BLOCK, byte_of

LOWEST = tl.constexpr(-1.0e30)  # instead of -inf: the difference of two of them is 0 and no NaN


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


@triton.constexpr_function
def run(splits, lanes, heads):
    """Splits that a lane reads at once: as many as there are for it, up to 8, or fewer of several heads."""
    run = 1
    while run * lanes < splits and run * heads < 16 and run < 8:
        run *= 2
    return run


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
    out, high, low, scale, first_head, count, y, gates,
    G: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr, ACT: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """y float32 [SIDE, 1, WIDE, G, EACH]: `count` heads from `first_head` on become elements of a `vector`.

    gates: the first head's, float32, every head's 2 * HEAD_DIM behind the one before, or None: y is multiplied with
    sigmoid(gate). high, low: int32 pointers. Groups of 8 never cross heads. Every store has all lanes in its shape and
    one in its mask: otherwise Triton would lay it out anew, by way of shared memory.
    """
    SIDE: tl.constexpr = side(DIMS, WARPS)
    EACH: tl.constexpr = each(DIMS, WARPS)
    WIDE: tl.constexpr = wide(DIMS, WARPS)
    g = tl.arange(0, G)[None, None, None, :, None]
    start = (first_head + g) * HEAD_DIM + _first_element(DIMS, WARPS)
    keep = (_lane(DIMS, WARPS) == 0) & (g < count) & (_first_element(DIMS, WARPS) < HEAD_DIM)
    if gates is not None:
        gate_at = (first_head + tl.minimum(g, count - 1)) * (2 * HEAD_DIM) + _element(DIMS, WARPS)
        gate = tl.load(gates + gate_at, mask=_element(DIMS, WARPS) + g * 0 < HEAD_DIM, other=0.0)
        y *= reciprocal(1.0 + tl.exp(-gate), ASM)
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
        words = opaque(tl.broadcast_to(byte_of(start) >> 2, keep.shape), ASM)
        for half in tl.static_range(EACH // 4):
            mine, shift = (e // 4) == half, e % 4 * 8
            upper = tl.where(mine, (((q >> 8) if ACT == 16 else q) & 255) << shift, 0)
            upper = tl.sum(upper, 4, keep_dims=True)
            tl.store(high + words + half * (BLOCK // 8), tl.broadcast_to(upper, keep.shape), mask=keep)
            if ACT == 16:
                lower = tl.sum(tl.where(mine, (q & 255) << shift, 0), 4, keep_dims=True)
                tl.store(low + words + half * (BLOCK // 8), tl.broadcast_to(lower, keep.shape), mask=keep)
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
    partial, first_head, count, used, sink,
    G: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr,
    SPLITS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """y for `store_heads` from `used` parts, RUN at a time in each lane. sink: as of `hand_over`.

    Read past the first-level cache, which other programs' stores do not reach. Parts that a lane reads at once are one
    tensor, not a loop unrolled: Triton's passes over loads take time with the square of what is written out.
    """
    SIDE: tl.constexpr = side(DIMS, WARPS)
    LANES: tl.constexpr = lanes(DIMS, WARPS)
    WIDE: tl.constexpr = wide(DIMS, WARPS)
    EACH: tl.constexpr = each(DIMS, WARPS)
    RUN: tl.constexpr = run(SPLITS, LANES, G)
    head = first_head + tl.minimum(tl.arange(0, G), count - 1)[None, None, None, None, :, None]
    element = tl.expand_dims(_element(DIMS, WARPS), 3)
    real = tl.expand_dims(_first_element(DIMS, WARPS) < HEAD_DIM, 3)
    m = tl.full([SIDE, LANES, WIDE, 1, G, 1], LOWEST, tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    acc = tl.zeros([SIDE, LANES, WIDE, 1, G, EACH], tl.float32)
    for step in tl.static_range((SPLITS + LANES * RUN - 1) // (LANES * RUN)):
        some = step * RUN + tl.arange(0, RUN)[None, None, None, :, None, None]
        split = some * LANES + tl.expand_dims(_lane(DIMS, WARPS), 3)
        part = head * SPLITS + tl.minimum(split, SPLITS - 1)
        have = tl.broadcast_to((split < used) & real, [SIDE, LANES, WIDE, RUN, G, 1])
        log_at = opaque(tl.broadcast_to(HEADS * SPLITS * HEAD_DIM + part, have.shape), ASM)
        log = tl.load(partial + log_at, mask=have, other=float("-inf"), cache_modifier=".cg")
        at = part * HEAD_DIM + element
        y = tl.load(partial + at, mask=tl.broadcast_to(have, at.shape), other=0.0, cache_modifier=".cg")
        top = tl.maximum(m, tl.max(log, 3, keep_dims=True))
        kept, new = tl.exp2(m - top), tl.exp2(log - top)
        total = total * kept + tl.sum(new, 3, keep_dims=True)
        acc = acc * kept + tl.sum(y * new, 3, keep_dims=True)
        m = top
    top = tl.max(m, 1, keep_dims=True)
    weight = tl.exp2(m - top)
    total = tl.sum(total * weight, 1, keep_dims=True)
    if sink is not None:
        total += sink_weight(sink[None, None, None, None, :, None], top)
    y = tl.sum(acc * weight, 1, keep_dims=True) * reciprocal(tl.where(total > 0, total, 1.0), ASM)
    return tl.reshape(y, [SIDE, 1, WIDE, G, EACH])


@triton.jit
def whole(used, SPLITS: tl.constexpr, LAST_COMBINES: tl.constexpr):
    """Whether a program's outputs are the heads', and no part of them."""
    return SPLITS == 1 or (LAST_COMBINES and used == 1)


@triton.jit
def hand_over(
    out, high, low, scale, partial, counter, split, used, first_head, count, y, log, sink, gates,
    G: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr,
    SPLITS: tl.constexpr, LAST_COMBINES: tl.constexpr, ACT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The end of a program: store its outputs, or its part and, being the last of `used`, what all parts make.

    sink: of these heads, [G], or None; counted in y where `whole`, and in what parts make. counter: int32, arrivals of
    these heads' splits, 0 before and after a token. gates: as of `store_heads`.
    """
    last = True
    if SPLITS > 1 and (used > 1 or not LAST_COMBINES):
        leave_part(partial, split, first_head, count, y, log, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS)
        last = False
        if LAST_COMBINES:
            tl.debug_barrier()  # every thread's stores before the count: Triton puts no barrier there
            last = tl.atomic_add(counter, 1, sem="acq_rel") == used - 1
            if last:
                tl.store(counter, 0)  # for the next token
                y = join_splits(partial, first_head, count, used, sink, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, ASM)
    if last:
        store_heads(out, high, low, scale, first_head, count, y, gates, G, HEAD_DIM, DIMS, WARPS, ACT, ASM)
