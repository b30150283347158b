"""Decoding attention over so few positions that a program holds all of its share in registers: one pass, no loop.

What counts is the path from the previous kernel's end to this one's. Keys and values are there before, as float32 where
registers allow. Afterwards there is one exchange between warps, of a number a position and head:

  scores   [SLOTS, G, ROWS, DIMS]: a thread holds 8 neighbouring elements (of int8, 16) of ROWS keys
  outputs  [SIDE, LANES, WARPS, G, RUNS, EACH]: a warp has elements of its own for all positions, which lie across its
           lanes, so that sums over positions, and all of `cuda_join`, concern one warp

in which axes go to threads in Triton's order: the contiguous one, then from the first on.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.cuda_kernel import scaled, to_floats
from kernel_templates.attention.scores import capped, factor, load_sinks, oldest, sink_weight
from kernel_templates.attention.split_kv_reduce import LOWEST, each, hand_over, lanes, side, whole
from kernel_templates.cuda.heads import inverse_rms, load_head, rotate, rotation
from kernel_templates.cuda.instructions import reciprocal
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def _first(a, b):
    return a


@triton.jit
def _need(x):
    """Have float32 x computed before the branch this is in, which is never taken: compilers would otherwise compute it
    where it is used, after the wait."""
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.nan.f32 p, $1, $1; @p trap; mov.b32 $0, 0; }", "=r,f", [x], dtype=tl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _exchanged(x, like):
    """float32 x, in the layout of `like`, whose load stands after those that x is made of. (Where layouts meet, Triton
    keeps the one that was loaded last.)"""
    x, like = tl.broadcast(x, like)
    return tl.inline_asm_elementwise(
        "mov.b32 $0, $1; // $2", "=f,f,f", [x, like], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def attend_short(
    qkv, keys, values, position_at, rope, q_norm, k_norm, out, high, low, scale, partial, counters, sinks,
    gates, capacity, eps, k_scales, v_scales,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, FINISH: tl.constexpr, TOGETHER: tl.constexpr, G: tl.constexpr,
    DIMS: tl.constexpr, WARPS: tl.constexpr, READY: tl.constexpr, EARLY: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, LAST_COMBINES: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (TOGETHER heads of one key head, split) over TILE of the positions 0..position, or of the last WINDOW of
    them, which are SPLITS * TILE at most.

    FINISH, sinks, gates and scales as in `cuda_kernel.attend`. READY: what is made float32 before the wait, 1 the keys,
    2 the values too. EARLY: whether the next kernel may start at once, or when this one has asked for its input.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    SHARED: tl.constexpr = HEADS // KV_HEADS
    SLOTS: tl.constexpr = WARPS * 32 * (8 if k_scales is None else 16) // DIMS
    ROWS: tl.constexpr = TILE // SLOTS
    QUERY: tl.constexpr = HEAD_DIM if gates is None else 2 * HEAD_DIM
    SIDE: tl.constexpr = side(DIMS, WARPS)
    LANES: tl.constexpr = lanes(DIMS, WARPS)
    EACH: tl.constexpr = each(DIMS, WARPS)
    RUNS: tl.constexpr = TILE // LANES
    FACTOR: tl.constexpr = factor(SCALE, SOFTCAP)
    column, split = tl.program_id(0), tl.program_id(1)
    first_head = column * TOGETHER
    kv = first_head // SHARED
    begin = split * TILE
    keys += kv.to(tl.int64) * capacity * HEAD_DIM
    values += kv.to(tl.int64) * capacity * HEAD_DIM
    if k_scales is not None:
        tl.static_assert(not FINISH)
        k_scales += kv.to(tl.int64) * capacity
        v_scales += kv.to(tl.int64) * capacity

    # Written by earlier tokens, or never: loaded while the previous kernel still runs.
    position = tl.load(position_at)
    if WINDOW > 0:
        begin += oldest(position, WINDOW)
    dim = tl.arange(0, DIMS)[None, None, None, :]
    slot = tl.arange(0, SLOTS)[:, None, None, None]
    every = dim + slot * 0  # what all slots need, each loads: in the keys' layout, without a way through shared memory
    at = begin + slot * ROWS + tl.arange(0, ROWS)[None, None, :, None]
    k = tl.load(keys + at * HEAD_DIM + dim, mask=(at < position) & (dim < HEAD_DIM), other=0.0)

    lane = tl.arange(0, LANES)[None, :, None, None, None, None]
    warp = tl.arange(0, WARPS)[None, None, :, None, None, None]
    element = (warp * SIDE + tl.arange(0, SIDE)[:, None, None, None, None, None]) * EACH
    element = element + tl.arange(0, EACH)[None, None, None, None, None, :]
    at_v = begin + lane * RUNS + tl.arange(0, RUNS)[None, None, None, None, :, None]
    v = tl.load(values + at_v * HEAD_DIM + element, mask=(at_v < position) & (element < HEAD_DIM), other=0.0)
    k_scale = None if k_scales is None else tl.load(k_scales + at, mask=at < position, other=0.0)
    v_scale = None if v_scales is None else tl.load(v_scales + at_v, mask=at_v < position, other=0.0)
    k, v = to_floats(k, ASM), scaled(to_floats(v, ASM), v_scale)
    if FINISH:
        angles = rope + position * ROPE_DIM
        q_own, q_other = rotation(q_norm, angles, every, FACTOR, HEAD_DIM, ROPE_DIM, QK_NORM)
        k_own, k_other = rotation(k_norm, angles, every, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)
    sink = None if sinks is None else load_sinks(sinks, first_head, G, TOGETHER)
    if ASM and position < 0:
        if READY >= 1:
            _need(k)
        if READY >= 2:
            _need(v)
        if FINISH:
            _need(q_own)
            _need(q_other)
            _need(k_own)
            _need(k_other)
    if PDL:
        gdc_wait()
    if begin > position:
        return

    owner = True if SPLITS == 1 else begin + TILE > position
    heads = first_head + tl.minimum(tl.arange(0, G), TOGETHER - 1)[None, :, None, None]  # padding repeats a head
    real = every < HEAD_DIM
    every_v = element + lane * 0
    real_v = owner & (every_v < HEAD_DIM)
    if FINISH:
        q, partner = load_head(qkv + heads * QUERY, every, real, ROPE_DIM)
        raw = qkv + (HEADS * (QUERY // HEAD_DIM) + kv) * HEAD_DIM
        new_k, new_partner = load_head(raw, every, owner & real, ROPE_DIM)
        new_v = tl.load(raw + KV_HEADS * HEAD_DIM + every_v, mask=real_v, other=0.0)
        if V_NORM:  # the elements of a head lie in all warps: the sum goes through shared memory
            squares = tl.sum(tl.sum(tl.sum(new_v * new_v, 5, keep_dims=True), 2, keep_dims=True), 0, keep_dims=True)
            new_v *= inverse_rms(squares, eps, HEAD_DIM)
        new_v = new_v.to(tl.float16)
        if QK_NORM:
            rms_q = inverse_rms(tl.sum(q * q, 3), eps, HEAD_DIM)
            rms_k = inverse_rms(tl.sum(new_k * new_k, 3), eps, HEAD_DIM)
        q = rotate(q, partner, q_own, q_other)
        new_k = rotate(new_k, new_partner, k_own, k_other)
    else:
        q = tl.load(qkv + heads * QUERY + every, mask=real, other=0.0) * FACTOR
        # `position` may be the previous kernel's work: only now is it there.
        new_k = to_floats(tl.load(keys + position * HEAD_DIM + every, mask=owner & real, other=0.0), ASM)
        new_v = tl.load(values + position * HEAD_DIM + every_v, mask=real_v, other=0.0)
        if k_scales is not None:
            new_k *= tl.load(k_scales + position)
            new_v = to_floats(new_v, ASM) * tl.load(v_scales + position)
    if PDL and not EARLY:
        gdc_launch_dependents()
    s = tl.sum(q * k, 3)
    if k_scale is not None:
        s *= tl.reshape(k_scale, [SLOTS, 1, ROWS])
    new = tl.sum(q * new_k, 3)
    if FINISH and QK_NORM:  # the norms' factors commute with the products: they come where nothing waits for them
        s *= rms_q
        new *= rms_q * rms_k
        new_k *= tl.expand_dims(rms_k, 3)
    s, new = capped(s, SOFTCAP, ASM), capped(new, SOFTCAP, ASM)
    s = tl.where(tl.reshape(at, [SLOTS, 1, ROWS]) < position, s, LOWEST)
    new = tl.max(tl.reshape(new, [WARPS, SLOTS // WARPS, G]), 1)  # they are equal
    new = tl.reshape(tl.where(owner, new, LOWEST), [1, 1, WARPS, G, 1])
    if FINISH:
        appends = owner & (first_head % SHARED == 0)
        once = appends & (slot == 0) & real
        final_k = new_k.to(tl.float16)
        tl.store(keys + position * HEAD_DIM + every, final_k, mask=once)
        if G > 1:  # once more, in q's shape: then q's loads, too, have the layout of float16 (Triton takes the widest
            # element count among memory accesses of one shape)
            final_k, final_at = tl.broadcast_to(final_k, q.shape), tl.broadcast_to(every, q.shape)
            in_one = once & (tl.arange(0, G)[None, :, None, None] == 0)
            tl.store(keys + position * HEAD_DIM + final_at, final_k, mask=in_one)
        tl.store(values + position * HEAD_DIM + every_v, new_v, mask=appends & real_v & (lane == 0))

    # The exchange: every warp gets every score.
    s = tl.reshape(tl.permute(s, (1, 0, 2)), [G, LANES, RUNS])
    s = tl.reshape(tl.permute(s, (1, 0, 2)), [1, LANES, 1, G, RUNS])
    new_v = new_v.to(tl.float32)
    if ASM:
        s = _exchanged(s, tl.reduce(new_v, 5, _first))
    m = tl.maximum(tl.max(tl.max(s, 4, keep_dims=True), 1, keep_dims=True), new)
    p = tl.exp2(s - m)
    new = tl.exp2(new - m)
    total = tl.sum(tl.sum(p, 4, keep_dims=True), 1, keep_dims=True) + new
    y = tl.sum(p[:, :, :, :, :, None] * v, 4)
    one_lane = tl.arange(0, LANES)[None, :, None, None, None] == 0
    y += tl.where(one_lane, new, 0.0) * tl.reshape(new_v, [SIDE, LANES, WARPS, 1, EACH])
    used = (position - oldest(position, WINDOW) if WINDOW > 0 else position) // TILE + 1
    divisor = total
    if sink is not None:
        weight = sink_weight(sink[None, None, None, :, None], m)
        divisor += tl.where(whole(used, SPLITS, LAST_COMBINES), weight, 0.0)
    y = tl.sum(y, 1, keep_dims=True) * reciprocal(divisor, ASM)
    hand_over(
        out, high, low, scale, partial, counters + column, split, used, first_head, TOGETHER, y, m + tl.log2(total),
        sink, gates, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, LAST_COMBINES, ACT, ASM,
    )  # fmt: skip
