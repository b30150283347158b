"""Decoding attention on tensor cores: one query position, grouped heads, positions split over programs.

    out = sum_p e^(s_p) v_p / sum_p e^(s_p), as of `cuda_kernel`

Threads that multiply themselves do so once for every query head of a key: with eight, that takes 150 instructions of a
warp a position, and longer than memory does. A tensor core multiplies 16 rows at any rate, and heads that share a key
are 8 at most as a rule. So queries and weights are float16 and, in 8 rows more, what float16 leaves of them: products
are as exact as float32 times float16. A head's two rows, 8 apart, belong to one thread, which adds them.

  scores   [ROWS, TILE]: warps have positions of their own, which exchange their largest ones
  outputs  [ROWS, DIMS]: warps have elements of their own, for all positions
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import capped, factor, load_sinks, oldest, sink_weight
from kernel_templates.attention.split_kv_reduce import LOWEST, each, hand_over, side, whole, wide
from kernel_templates.cuda.heads import finish_head, inverse_rms, load_head, rotation
from kernel_templates.cuda.instructions import loop_bound, prefetch_block
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def _two_halves(x):
    """float32 [H, N] -> float16 [2 * H, N]: x rounded, and below it the rest."""
    upper = x.to(tl.float16)
    lower = (x - upper.to(tl.float32)).to(tl.float16)
    both = tl.permute(tl.join(upper, lower), (2, 0, 1))
    return tl.reshape(both, [2 * x.shape[0], x.shape[1]])


@triton.jit
def _sum_halves(x):
    """[2 * H, N] -> [H, N]: what came of both halves of a row."""
    return tl.sum(tl.reshape(x, [2, x.shape[0] // 2, x.shape[1]]), 0)


@triton.jit
def _add_tile(q, k, v, have, m, total, acc, SOFTCAP: tl.constexpr, ASM: tl.constexpr):
    """One tile more in m [H], total [H, TILE] and acc [2 * H, DIMS]. q: float16 [2 * H, DIMS]; k, v: float16 [TILE,
    DIMS], zeros where not `have` [1, TILE]. total: of every place in a tile its own sum of weights, so that its sum
    over places comes once, at the end."""
    HALF: tl.constexpr = m.shape[0]
    s = capped(_sum_halves(tl.dot(q, tl.trans(k))), SOFTCAP, ASM)
    s = tl.where(have, s, float("-inf"))
    top = tl.maximum(m, tl.max(s, 1))
    kept, p = tl.exp2(m - top), tl.exp2(s - top[:, None])
    both = tl.reshape(tl.broadcast_to(kept[None, :], [2, HALF]), [2 * HALF])
    acc = tl.dot(_two_halves(p), v, acc * both[:, None])
    return top, total * kept[:, None] + p, acc


@triton.jit
def _span(count, SPLITS: tl.constexpr, TILE: tl.constexpr):
    """Positions of a split, of `count` that count: whole tiles. Later splits may have none."""
    return tl.cdiv(tl.cdiv(count, SPLITS), TILE) * TILE


@triton.jit
def attend_dot(
    qkv, keys, values, position_at, rope, q_norm, k_norm, out, high, low, scale, partial, counters, sinks,
    gates, capacity, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, FINISH: tl.constexpr, TOGETHER: tl.constexpr, G: tl.constexpr,
    DIMS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr, PREFETCH: tl.constexpr, LAST_COMBINES: tl.constexpr, SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (all heads of one key head, split) over its share of positions 0..position, or of the last WINDOW.

    Arguments as of `cuda_kernel.attend`. STAGES: 0, a share is one tile, and asked for before the wait; 1, so is its
    first tile, and of the others each is on its way to registers while the one before is used; from 2 on, tiles that
    asynchronous copies bring to shared memory, all after the wait.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    QUERY: tl.constexpr = HEAD_DIM if gates is None else 2 * HEAD_DIM
    FACTOR: tl.constexpr = factor(SCALE, SOFTCAP)
    HALF: tl.constexpr = max(G, 8)
    kv, split = tl.program_id(0), tl.program_id(1)
    first_head = kv * TOGETHER

    # Written by earlier tokens, or never: loaded while the previous kernel still runs.
    position = tl.load(position_at)
    first = oldest(position, WINDOW) if WINDOW > 0 else 0
    span = _span(position + 1 - first, SPLITS, TILE)
    begin = first + split * span
    stop = tl.minimum(begin + span, position)
    keys += kv.to(tl.int64) * capacity * HEAD_DIM
    values += kv.to(tl.int64) * capacity * HEAD_DIM
    place = tl.arange(0, TILE)
    across = tl.arange(0, DIMS)[None, :]
    if STAGES == 1:
        at = begin + place[:, None]
        have = (at < stop) & (across < HEAD_DIM)
        k = tl.load(keys + at * HEAD_DIM + across, mask=have, other=0.0)
        v = tl.load(values + at * HEAD_DIM + across, mask=have, other=0.0)
    elif PREFETCH and PDL:
        size = tl.minimum(stop - begin, STAGES * TILE) * (2 * HEAD_DIM)
        prefetch_block(keys + begin * HEAD_DIM, size)
        prefetch_block(values + begin * HEAD_DIM, size)
    head = tl.arange(0, HALF)[:, None]
    dim = across + head * 0  # what all heads need, each loads: in one layout
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

    owner = begin + span > position
    heads = first_head + tl.minimum(head, TOGETHER - 1)  # padding repeats a head, and is not stored
    if FINISH:
        q, partner = load_head(qkv + heads * QUERY, dim, real, ROPE_DIM)
        raw = qkv + (HEADS * (QUERY // HEAD_DIM) + kv) * HEAD_DIM
        new_k, new_partner = load_head(raw, dim, owner & real, ROPE_DIM)
        new_v = tl.load(raw + KV_HEADS * HEAD_DIM + dim, mask=owner & real, other=0.0)
        if V_NORM:
            new_v *= inverse_rms(tl.sum(new_v * new_v, 1, keep_dims=True), eps, HEAD_DIM)
        new_v = new_v.to(tl.float16)
        q = finish_head(q, partner, q_own, q_other, eps, 1, HEAD_DIM, QK_NORM)
        new_k = finish_head(new_k, new_partner, k_own, k_other, eps, 1, HEAD_DIM, QK_NORM).to(tl.float16)
        once = owner & real & (head == 0)
        tl.store(keys + position * HEAD_DIM + dim, new_k, mask=once)
        tl.store(values + position * HEAD_DIM + dim, new_v, mask=once)
    else:
        q = tl.load(qkv + heads * QUERY + dim, mask=real, other=0.0) * FACTOR
        # `position` may be the previous kernel's work: only now is it there.
        new_k = tl.load(keys + position * HEAD_DIM + dim, mask=owner & real, other=0.0)
        new_v = tl.load(values + position * HEAD_DIM + dim, mask=owner & real, other=0.0)
    if PDL and not EARLY:
        gdc_launch_dependents()
    new = capped(tl.sum(q * new_k.to(tl.float32), 1), SOFTCAP, ASM)
    new = tl.where(owner, new, LOWEST)
    q = _two_halves(q)

    m = tl.full([HALF], LOWEST, tl.float32)
    total = tl.zeros([HALF, TILE], tl.float32)
    acc = tl.zeros([2 * HALF, DIMS], tl.float32)
    if STAGES == 1:
        m, total, acc = _add_tile(q, k, v, begin + place[None, :] < stop, m, total, acc, SOFTCAP, ASM)
    else:
        for tile in tl.range(loop_bound(begin, ASM), loop_bound(stop, ASM), TILE, num_stages=STAGES):
            at = tile + place[:, None]
            have = (at < stop) & (across < HEAD_DIM)
            k = tl.load(keys + at * HEAD_DIM + across, mask=have, other=0.0)
            v = tl.load(values + at * HEAD_DIM + across, mask=have, other=0.0)
            m, total, acc = _add_tile(q, k, v, tile + place[None, :] < stop, m, total, acc, SOFTCAP, ASM)

    # The new position, which the owner has in registers.
    top = tl.maximum(m, new)
    kept, weight = tl.exp2(m - top), tl.where(owner, tl.exp2(new - top), 0.0)
    total = tl.sum(total, 1) * kept + weight
    y = _sum_halves(acc) * kept[:, None] + weight[:, None] * new_v.to(tl.float32)
    used = tl.cdiv(position + 1 - first, span)
    y, total, top = _real_heads(y, G), _real_heads(total[:, None], G), _real_heads(top[:, None], G)
    divisor = total
    if sink is not None:
        lost = sink_weight(sink[:, None], top)
        divisor += tl.where(whole(used, SPLITS, LAST_COMBINES), lost, 0.0)
    y = tl.reshape(y / divisor, [G, wide(DIMS, WARPS), side(DIMS, WARPS), each(DIMS, WARPS)])
    y = tl.reshape(tl.permute(y, (2, 1, 0, 3)), [side(DIMS, WARPS), 1, wide(DIMS, WARPS), G, each(DIMS, WARPS)])
    log = tl.reshape(top + tl.log2(total), [1, 1, 1, G, 1])
    hand_over(
        out, high, low, scale, partial, counters + kv, split, used, first_head, TOGETHER, y, log, sink, gates,
        G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, LAST_COMBINES, ACT, ASM,
    )  # fmt: skip


@triton.jit
def _real_heads(x, G: tl.constexpr):
    """The first G of x's rows [H, N]."""
    if x.shape[0] == G:
        return x
    else:
        rows = tl.reshape(x, [x.shape[0] // G, G, x.shape[1]])
        return tl.sum(tl.where(tl.arange(0, x.shape[0] // G)[:, None, None] == 0, rows, 0.0), 0)
