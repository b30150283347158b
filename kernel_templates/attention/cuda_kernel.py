"""Decoding attention's kernels: one query position, grouped heads, positions split over programs.

    out = sum_p e^(s_p) v_p / sum_p e^(s_p),  s_p = SCALE q . k_p, or SOFTCAP tanh(SCALE q . k_p / SOFTCAP),
    with a sink of each head: the sum of weights plus e^sink

Everything is four-dimensional, [SLOTS, GROUP heads, ROWS, DIMS elements], so that one layout serves all of it: a thread
holds 16 bytes of neighbouring elements (8 of float16, 16 of int8) of every head and row, a slot is what threads side by
side and warps differ in, and position = first + row * SLOTS + slot. Slots come first because Triton hands out threads
axis by axis, the contiguous one first. Each slot keeps its own online softmax (Milakov and Gimelshein 2018): largest
score m, total, weighted values acc. So the loop has no barrier, and slots join once, at the end. Scores are in units of
log 2.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import capped, factor, load_sinks, oldest, sink_weight
from kernel_templates.attention.split_kv_reduce import (
    LOWEST,
    each,
    hand_over,
    join_splits,
    side,
    store_heads,
    whole,
    wide,
)
from kernel_templates.cuda.heads import finish_head, inverse_rms, load_head, rotation
from kernel_templates.cuda.instructions import loop_bound, prefetch_block
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantized_cache import to_halves


@triton.jit
def _join(m1, l1, m2, l2):
    m = tl.maximum(m1, m2)
    return m, l1 * tl.exp2(m1 - m) + l2 * tl.exp2(m2 - m)


@triton.jit
def to_floats(x, ASM: tl.constexpr):
    """float32 of what a cache holds, float16 or int8."""
    if x.dtype == tl.int8:
        return to_halves(x, ASM).to(tl.float32)
    else:
        return x.to(tl.float32)


@triton.jit
def scaled(x, scales):
    """x times scales, if there are any."""
    if scales is None:
        return x
    else:
        return x * scales


@triton.jit
def _add_slots(x, VECTOR: tl.constexpr):
    """Sum of x [S, G, 1, D] over its slots, [1, G, 1, D].

    Slots of one warp first, by shuffles; then warps change places with elements in one pass through shared memory,
    which `split` asks for, and meet in a thread. A plain sum goes through it twice, a word at a time.
    """
    SLOTS: tl.constexpr = x.shape[0]
    GROUP: tl.constexpr = x.shape[1]
    DIMS: tl.constexpr = x.shape[3]
    IN_WARP: tl.constexpr = 32 * VECTOR // DIMS
    if IN_WARP >= 1 and SLOTS > IN_WARP:
        x = tl.sum(tl.reshape(x, [SLOTS // IN_WARP, IN_WARP, GROUP, DIMS]), 1)
        pairs = tl.reshape(x, [SLOTS // IN_WARP // 2, 2, GROUP, DIMS])
        even, odd = tl.split(tl.permute(pairs, (2, 3, 0, 1)))
        return tl.reshape(tl.sum(even + odd, 2), [1, GROUP, 1, DIMS])
    else:
        return tl.sum(x, 0, keep_dims=True)


@triton.jit
def _settle(m, total, acc, VECTOR: tl.constexpr):
    """Join the slots of m, total [S, G, 1, 1] and acc [S, G, 1, D]: the same with S = 1. VECTOR: elements of a
    thread."""
    top, total = tl.reduce((m, total), 0, _join, keep_dims=True)
    return top, total, _add_slots(acc * tl.exp2(m - top), VECTOR)


@triton.jit
def _span(count, SPLITS: tl.constexpr, TILE: tl.constexpr):
    """Positions of a split, of `count` that count: whole tiles. Later splits may have none."""
    return tl.cdiv(tl.cdiv(count, SPLITS), TILE) * TILE


@triton.jit
def attend(
    qkv, keys, values, position_at, rope, q_norm, k_norm, out, high, low, scale, partial, counters, sinks,
    gates, capacity, eps, k_scales, v_scales,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, FINISH: tl.constexpr, TOGETHER: tl.constexpr, G: tl.constexpr,
    DIMS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    PREFETCH: tl.constexpr, LAST_COMBINES: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (TOGETHER heads of one key head, split) over its share of positions 0..position, or of the last WINDOW.

    FINISH: qkv holds this token's raw projections; queries are normed and rotated here, programs whose share holds
    `position` finish the key, and the one with the key head's first query head appends key and value to the caches
    float16 [KV_HEADS, capacity, HEAD_DIM]. Otherwise queries are final and the caches hold `position` already.
    sinks: float32 [HEADS], or None. gates: None, or qkv's first gate: each query is followed by one, as long as it is,
    of what its head gives. k_scales, v_scales: float32 [KV_HEADS, capacity] of caches that are int8, which are
    appended to by another kernel; else None. G: TOGETHER, padded to a power of two. EARLY: the next kernel may start at
    once, else when this one's loop does. PREFETCH: what follows the first tile is asked for in the L2 cache before the
    wait.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    SHARED: tl.constexpr = HEADS // KV_HEADS
    VECTOR: tl.constexpr = 8 if k_scales is None else 16
    SLOTS: tl.constexpr = WARPS * 32 * VECTOR // DIMS
    ROWS: tl.constexpr = TILE // SLOTS
    QUERY: tl.constexpr = HEAD_DIM if gates is None else 2 * HEAD_DIM
    FACTOR: tl.constexpr = factor(SCALE, SOFTCAP)
    column, split = tl.program_id(0), tl.program_id(1)
    first_head = column * TOGETHER
    kv = first_head // SHARED
    slot = tl.arange(0, SLOTS)[:, None, None, None]
    group = tl.arange(0, G)[None, :, None, None]
    row = tl.arange(0, ROWS)[None, None, :, None]
    dim = tl.arange(0, DIMS)[None, None, None, :]
    real = dim < HEAD_DIM

    # Written by earlier tokens, or never: loaded while the previous kernel still runs.
    position = tl.load(position_at)
    if WINDOW > 0:
        first = oldest(position, WINDOW)
        span = _span(position + 1 - first, SPLITS, TILE)
        begin = first + split * span
    else:
        span = _span(position + 1, SPLITS, TILE)
        begin = split * span
    stop = tl.minimum(begin + span, position if FINISH else position + 1)
    keys += kv.to(tl.int64) * capacity * HEAD_DIM
    values += kv.to(tl.int64) * capacity * HEAD_DIM
    if k_scales is not None:
        tl.static_assert(not FINISH)
        k_scales += kv.to(tl.int64) * capacity
        v_scales += kv.to(tl.int64) * capacity
    at = begin + row * SLOTS + slot
    old = (at < stop) & (at < position)
    k = tl.load(keys + at * HEAD_DIM + dim, mask=old & real, other=0.0)
    v = tl.load(values + at * HEAD_DIM + dim, mask=old & real, other=0.0)
    k_scale = None if k_scales is None else tl.load(k_scales + at, mask=old, other=0.0)
    v_scale = None if v_scales is None else tl.load(v_scales + at, mask=old, other=0.0)
    if PREFETCH and PDL:
        size = (stop - begin - TILE) * ((2 if k_scales is None else 1) * HEAD_DIM)
        prefetch_block(keys + (begin + TILE) * HEAD_DIM, size)
        prefetch_block(values + (begin + TILE) * HEAD_DIM, size)
    if FINISH:
        # What all slots need, each loads: in the cache's layout, without a way through shared memory.
        every = tl.broadcast_to(dim, (SLOTS, 1, 1, DIMS))
        angles = rope + position * ROPE_DIM
        q_own, q_other = rotation(q_norm, angles, every, FACTOR, HEAD_DIM, ROPE_DIM, QK_NORM)
        k_own, k_other = rotation(k_norm, angles, every, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)
    sink = None if sinks is None else load_sinks(sinks, first_head, G, TOGETHER)
    if PDL:
        gdc_wait()
    if begin > position:
        return

    heads = first_head + tl.minimum(group, TOGETHER - 1)  # padding repeats a head, and is not stored
    if FINISH:
        owner = begin + span > position
        q, partner = load_head(qkv + heads * QUERY, every, real, ROPE_DIM)
        raw = qkv + (HEADS * (QUERY // HEAD_DIM) + kv) * HEAD_DIM
        new_k, new_partner = load_head(raw, every, owner & real, ROPE_DIM)
        new_v = tl.load(raw + KV_HEADS * HEAD_DIM + every, mask=owner & real, other=0.0)
        if V_NORM:
            new_v *= inverse_rms(tl.sum(new_v * new_v, 3, keep_dims=True), eps, HEAD_DIM)
        new_v = new_v.to(tl.float16)
        q = finish_head(q, partner, q_own, q_other, eps, 3, HEAD_DIM, QK_NORM)
        new_k = finish_head(new_k, new_partner, k_own, k_other, eps, 3, HEAD_DIM, QK_NORM).to(tl.float16)
        # The owner's first slot starts from the new position, all others from nothing.
        appends = owner & (slot == 0)
        m = capped(tl.sum(q * new_k.to(tl.float32), 3, keep_dims=True), SOFTCAP, ASM)
        m = tl.where(appends, m, LOWEST)
        total = tl.where(appends, tl.full(m.shape, 1.0, tl.float32), 0.0)
        acc = tl.where(appends, tl.broadcast_to(new_v.to(tl.float32), q.shape), 0.0)
        # 16 bytes of float16 a thread in the shapes of q and v: what gives their loads the cache's layout (Triton's
        # coalescing takes the widest element count among memory accesses of one shape).
        in_all, spread = tl.broadcast_to(new_k, q.shape), tl.broadcast_to(keys + position * HEAD_DIM + every, q.shape)
        stored = appends & (first_head % SHARED == 0) & real
        tl.store(spread, in_all, mask=stored & (group == 0))
        tl.store(values + position * HEAD_DIM + every, new_v, mask=stored)
    else:
        q = tl.load(qkv + heads * QUERY + dim, mask=real, other=0.0) * FACTOR
        # `position` may be the previous kernel's work: only now is it there.
        new = (at < stop) & (at == position)
        k = tl.where(new, tl.load(keys + at * HEAD_DIM + dim, mask=new & real, other=0.0), k)
        v = tl.where(new, tl.load(values + at * HEAD_DIM + dim, mask=new & real, other=0.0), v)
        if k_scales is not None:
            k_scale = tl.where(new, tl.load(k_scales + at, mask=new, other=0.0), k_scale)
            v_scale = tl.where(new, tl.load(v_scales + at, mask=new, other=0.0), v_scale)
        m = tl.full([SLOTS, G, 1, 1], LOWEST, tl.float32)
        total = tl.zeros([SLOTS, G, 1, 1], tl.float32)
        acc = tl.zeros([SLOTS, G, 1, DIMS], tl.float32)

    if PDL and not EARLY:
        gdc_launch_dependents()
    for _ in range(loop_bound(begin, ASM), loop_bound(stop, ASM), TILE):
        next_at = at + TILE  # the next tile is on its way while this one is used
        next_k = tl.load(keys + next_at * HEAD_DIM + dim, mask=(next_at < stop) & real, other=0.0)
        next_v = tl.load(values + next_at * HEAD_DIM + dim, mask=(next_at < stop) & real, other=0.0)
        if k_scales is not None:
            next_k_scale = tl.load(k_scales + next_at, mask=next_at < stop, other=0.0)
            next_v_scale = tl.load(v_scales + next_at, mask=next_at < stop, other=0.0)
        s = capped(scaled(tl.sum(q * to_floats(k, ASM), 3, keep_dims=True), k_scale), SOFTCAP, ASM)
        s = tl.where(at < stop, s, float("-inf"))
        top = tl.maximum(m, tl.max(s, 2, keep_dims=True))
        kept, p = tl.exp2(m - top), tl.exp2(s - top)
        total = total * kept + tl.sum(p, 2, keep_dims=True)
        acc = acc * kept + tl.sum(scaled(p, v_scale) * to_floats(v, ASM), 2, keep_dims=True)
        m, at, k, v = top, next_at, next_k, next_v
        if k_scales is not None:
            k_scale, v_scale = next_k_scale, next_v_scale

    m, total, acc = _settle(m, total, acc, VECTOR)
    used = tl.cdiv(position + 1 - first if WINDOW > 0 else position + 1, span)
    divisor = total
    if sink is not None:
        weight = sink_weight(sink[None, :, None, None], m)
        divisor += tl.where(whole(used, SPLITS, LAST_COMBINES), weight, 0.0)
    y = tl.reshape(acc / divisor, [G, wide(DIMS, WARPS), side(DIMS, WARPS), each(DIMS, WARPS)])
    y = tl.reshape(tl.permute(y, (2, 1, 0, 3)), [side(DIMS, WARPS), 1, wide(DIMS, WARPS), G, each(DIMS, WARPS)])
    log = tl.reshape(m + tl.log2(total), [1, 1, 1, G, 1])
    hand_over(
        out, high, low, scale, partial, counters + column, split, used, first_head, TOGETHER, y, log, sink, gates,
        G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, LAST_COMBINES, ACT, ASM,
    )  # fmt: skip


@triton.jit
def combine(
    position_at, partial, out, high, low, scale, sinks, gates,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, WARPS: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, WINDOW: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (head): join the splits that `attend` or `attend_short` left in `partial`."""
    if PDL:
        gdc_launch_dependents()
    head = tl.program_id(0)
    count = tl.load(position_at) + 1
    if WINDOW > 0:
        count = tl.minimum(count, WINDOW)
    used = tl.cdiv(count, _span(count, SPLITS, TILE))
    sink = None if sinks is None else load_sinks(sinks, head, 1, 1)
    if PDL:
        gdc_wait()
    y = join_splits(partial, head, 1, used, sink, 1, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, ASM)
    store_heads(out, high, low, scale, head, 1, y, gates, 1, HEAD_DIM, DIMS, WARPS, ACT, ASM)
