"""Decoding attention on tensor cores: keys and values go past the registers, by asynchronous copies some tiles ahead.

    out = sum_p e^(s_p) v_p / sum_p e^(s_p), as of `cuda_kernel`

A tile is [WARPS, POSITIONS, DIMS], a warp's positions its own, so that nothing goes from warp to warp before the end.
Queries and weights are float32 rounded to float16, and what is left of them once more: a tensor core takes 16 rows at
any rate, of which heads that share a key fill but a few. So neither loses anything, and a product of float16 keys is as
exact as in `cuda_kernel`.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import capped, factor, load_sinks, oldest
from kernel_templates.attention.split_kv_reduce import JOIN_BY_LAST, LOWEST, join_splits, store_heads
from kernel_templates.cuda.heads import finish_head, inverse_rms, load_head, rotation
from kernel_templates.cuda.instructions import loop_bound, prefetch_block, reciprocal


@triton.constexpr_function
def rows_of(heads):
    """Rows of a tensor core's product: two for each head, 16 at least."""
    return max(16, 2 * heads)


@triton.jit
def _two_halves(x, HALF: tl.constexpr):
    """float32 [.., HALF, N] -> float16 [.., 2 * HALF, N]: x rounded, and below it the rest."""
    upper = x.to(tl.float16)
    lower = (x - upper.to(tl.float32)).to(tl.float16)
    both = tl.permute(tl.join(upper, lower), (0, 3, 1, 2))
    return tl.reshape(both, [x.shape[0], 2 * HALF, x.shape[2]])


@triton.jit
def _sum_halves(x, HALF: tl.constexpr):
    """[W, 2 * HALF, N] -> [W, HALF, N]: what came of both halves of a row."""
    return tl.sum(tl.reshape(x, [x.shape[0], 2, HALF, x.shape[2]]), 1)


@triton.jit
def attend_dot(
    qkv, keys, values, position_at, rope, q_norm, k_norm, out, high, low, scale, partial, counters, sinks,
    gates, capacity, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, FINISH: tl.constexpr, TOGETHER: tl.constexpr, G: tl.constexpr,
    DIMS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr, PREFETCH: tl.constexpr, JOIN: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (TOGETHER heads of one key head, split) over its share of positions 0..position, or of the last WINDOW.

    Arguments as of `cuda_kernel.attend`; STAGES: tiles on their way or in use. Each warp leaves a part of its own, WARPS
    a split.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    SHARED: tl.constexpr = HEADS // KV_HEADS
    QUERY: tl.constexpr = HEAD_DIM if gates is None else 2 * HEAD_DIM
    FACTOR: tl.constexpr = factor(SCALE, SOFTCAP)
    ROWS: tl.constexpr = rows_of(G)
    HALF: tl.constexpr = ROWS // 2
    POSITIONS: tl.constexpr = TILE // WARPS
    column, split = tl.program_id(0), tl.program_id(1)
    first_head = column * TOGETHER
    kv = first_head // SHARED
    position = tl.load(position_at)
    first = oldest(position, WINDOW) if WINDOW > 0 else 0
    span = tl.cdiv(tl.cdiv(position + 1 - first, SPLITS), TILE) * TILE
    begin = first + split * span
    stop = tl.minimum(begin + span, position + 1)
    keys += kv.to(tl.int64) * capacity * HEAD_DIM
    values += kv.to(tl.int64) * capacity * HEAD_DIM
    if PREFETCH and PDL:
        prefetch_block(keys + begin * HEAD_DIM, (stop - begin) * (2 * HEAD_DIM))
        prefetch_block(values + begin * HEAD_DIM, (stop - begin) * (2 * HEAD_DIM))
    head = tl.arange(0, HALF)[:, None]
    dim = tl.arange(0, DIMS)[None, :] + head * 0  # what all heads need, each loads: in one layout
    real = dim < HEAD_DIM
    if FINISH:
        angles = rope + position * ROPE_DIM
        q_own, q_other = rotation(q_norm, angles, dim, FACTOR, HEAD_DIM, ROPE_DIM, QK_NORM)
        k_own, k_other = rotation(k_norm, angles, dim, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)
    sink = None if sinks is None else load_sinks(sinks, first_head, G, TOGETHER)
    if PDL:
        gdc_wait()
    if begin > position:
        return

    heads = first_head + tl.minimum(head, TOGETHER - 1)  # padding repeats a head, and is not stored
    if FINISH:
        q, partner = load_head(qkv + heads * QUERY, dim, real, ROPE_DIM)
        if stop > position:  # into the cache, where the loop finds it
            raw = qkv + (HEADS * (QUERY // HEAD_DIM) + kv) * HEAD_DIM
            new_k, new_partner = load_head(raw, dim, real, ROPE_DIM)
            new_v = tl.load(raw + KV_HEADS * HEAD_DIM + dim, mask=real, other=0.0)
            if V_NORM:
                new_v *= inverse_rms(tl.sum(new_v * new_v, 1, keep_dims=True), eps, HEAD_DIM)
            new_k = finish_head(new_k, new_partner, k_own, k_other, eps, 1, HEAD_DIM, QK_NORM)
            once = real & (head == 0)
            tl.store(keys + position * HEAD_DIM + dim, new_k.to(tl.float16), mask=once)
            tl.store(values + position * HEAD_DIM + dim, new_v.to(tl.float16), mask=once)
            tl.debug_barrier()
        q = finish_head(q, partner, q_own, q_other, eps, 1, HEAD_DIM, QK_NORM)
    else:
        q = tl.load(qkv + heads * QUERY + dim, mask=real, other=0.0) * FACTOR
    q = tl.broadcast_to(_two_halves(q[None, :, :], HALF), [WARPS, ROWS, DIMS])

    m = tl.full([WARPS, HALF], LOWEST, tl.float32)
    total = tl.zeros([WARPS, HALF], tl.float32)
    acc = tl.zeros([WARPS, ROWS, DIMS], tl.float32)
    warp = tl.arange(0, WARPS)[:, None, None]
    own = warp * POSITIONS + tl.arange(0, POSITIONS)[None, :, None]
    across = tl.arange(0, DIMS)[None, None, :]
    for tile in tl.range(loop_bound(begin, ASM), loop_bound(stop, ASM), TILE, num_stages=STAGES):
        at = tile + own
        have = (at < stop) & (across < HEAD_DIM)
        k = tl.load(keys + at * HEAD_DIM + across, mask=have, other=0.0)
        v = tl.load(values + at * HEAD_DIM + across, mask=have, other=0.0)
        s = _sum_halves(tl.dot(q, tl.permute(k, (0, 2, 1))), HALF)
        s = capped(s, SOFTCAP, ASM)
        which = tile + warp * POSITIONS + tl.arange(0, POSITIONS)[None, None, :]
        s = tl.where(which < stop, s, LOWEST)
        top = tl.maximum(m, tl.max(s, 2))
        kept, p = tl.exp2(m - top), tl.exp2(s - top[:, :, None])
        p = tl.where(which < stop, p, 0.0)
        total = total * kept + tl.sum(p, 2)
        kept = tl.reshape(tl.broadcast_to(kept[:, None, :], [WARPS, 2, HALF]), [WARPS, ROWS])
        acc = tl.dot(_two_halves(p, HALF), v, acc * kept[:, :, None])
        m = top

    PARTS: tl.constexpr = SPLITS * WARPS
    have = total > 0
    y = _sum_halves(acc, HALF) * tl.where(have, reciprocal(total, ASM), 0.0)[:, :, None]
    rows = tl.arange(0, HALF)[None, :]
    part = (first_head + rows) * PARTS + split * WARPS + tl.arange(0, WARPS)[:, None]
    tl.store(partial + part[:, :, None] * HEAD_DIM + across, y, mask=(rows < TOGETHER)[:, :, None] & (across < HEAD_DIM))
    log = tl.where(have, m + tl.log2(total), LOWEST)
    tl.store(partial + HEADS * PARTS * HEAD_DIM + part, log, mask=(rows < TOGETHER) & (part >= 0))
    if JOIN == JOIN_BY_LAST:
        used = tl.cdiv(position + 1 - first, span)
        tl.debug_barrier()  # every thread's stores before the count: Triton puts no barrier there
        if tl.atomic_add(counters + column, 1, sem="acq_rel") == used - 1:
            tl.store(counters + column, 0)  # for the next token
            joined = join_splits(
                partial, first_head, TOGETHER, used * WARPS, sink, G, HEADS, HEAD_DIM, DIMS, WARPS, PARTS, ASM
            )  # fmt: skip
            store_heads(out, high, low, scale, first_head, TOGETHER, joined, gates, G, HEAD_DIM, DIMS, WARPS, ACT, ASM)
