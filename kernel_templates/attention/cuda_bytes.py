"""Decoding attention over a cache of 8 bits on tensor cores: bytes from memory to the registers that multiply them.

    out = sum_p e^(s_p) v_p / sum_p e^(s_p), as of `cuda_kernel`

Half the bytes of a float16 cache want as much to be on its way, and twice the arithmetic for each of them. By way of
shared memory, float16 made of them would be written and read there, as many bytes again as twice what memory gives.
So a thread loads in 16 bytes what it multiplies (`operands`): warps have positions and sums of their
own, and nothing goes from one to another but queries, before, and outputs, at the end. Queries and weights are rounded
to float16, whose error is a tenth of that of the cache.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.operands import of_keys, of_rows, of_values, settle, step
from kernel_templates.attention.scores import NEVER, load_sinks, oldest
from kernel_templates.attention.split_kv_reduce import LOWEST, each, hand_over, side, whole, wide
from kernel_templates.cuda.instructions import all_asked_for, loop_bound, opaque, prefetch_block, to_half
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantized_cache import LARGEST, to_halves


@triton.jit
def _keys(
    keys, scales, base, stop, j, g, warp,
    HEAD_DIM: tl.constexpr, T: tl.constexpr, C: tl.constexpr, EK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """int8 [4, 8, W, T, C, EK] of positions from `base` on, zeros from `stop` on, and the scales of the scores'."""
    t = tl.arange(0, T)[None, None, None, :]
    at = (base + warp * (8 * T))[:, :, :, None] + 8 * t + g[:, :, :, None] + 0 * j[:, :, :, None]
    # What is known when compiling is added last: so it is part of the instruction.
    element = 4 * EK * tl.arange(0, C)[None, None, None, None, :, None]
    element = element + tl.arange(0, EK)[None, None, None, None, None, :]
    some = (at < stop)[:, :, :, :, None, None]
    if 4 * EK * C != HEAD_DIM:
        some = some & (element + EK * j[:, :, :, None, None, None] < HEAD_DIM)
    start = keys + (at * HEAD_DIM + (EK * j)[:, :, :, None])
    k = tl.load(start[:, :, :, :, None, None] + element, mask=some, other=0)
    pair = _pairs(base, j, g, warp, T, ASM)
    return k, tl.load(scales + pair, mask=pair < stop, other=0.0)


@triton.jit
def _values(
    values, scales, base, stop, j, g, warp,
    HEAD_DIM: tl.constexpr, T: tl.constexpr, CC: tl.constexpr, EV: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """int8 [4, 8, W, T, 2, CC, EV], zeros from `stop` on, and scales of the scores' shape."""
    t = tl.arange(0, T)[None, None, None, :]
    at = (base + warp * (8 * T))[:, :, :, None] + 8 * t + 2 * j[:, :, :, None] + 0 * g[:, :, :, None]
    at = at[:, :, :, :, None] + tl.arange(0, 2)[None, None, None, None, :]
    element = 8 * EV * tl.arange(0, CC)[None, None, None, None, None, :, None]
    element = element + tl.arange(0, EV)[None, None, None, None, None, None, :]
    some = (at < stop)[:, :, :, :, :, None, None]
    if 8 * EV * CC != HEAD_DIM:
        some = some & (element + EV * g[:, :, :, None, None, None, None] < HEAD_DIM)
    start = values + (at * HEAD_DIM + (EV * g)[:, :, :, None, None])
    v = tl.load(start[:, :, :, :, :, None, None] + element, mask=some, other=0)
    pair = _pairs(base, j, g, warp, T, ASM)
    return v, tl.load(scales + pair, mask=pair < stop, other=0.0)


@triton.jit
def _pairs(base, j, g, warp, T: tl.constexpr, ASM: tl.constexpr):
    """The positions of a thread's scores, [4, 8, W, T, 2]."""
    t = opaque(tl.arange(0, T), ASM)[None, None, None, :, None]
    e = opaque(tl.arange(0, 2), ASM)[None, None, None, None, :]  # or two lanes would load them
    return (base + warp * (8 * T) + 2 * j + 0 * g)[:, :, :, None, None] + 8 * t + e


@triton.jit
def attend_bytes(
    qkv, keys, values, position_at, rope, q_norm, k_norm, out, high, low, scale, partial, counters, sinks,
    gates, capacity, eps, k_scales, v_scales,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, FINISH: tl.constexpr, TOGETHER: tl.constexpr, G: tl.constexpr,
    DIMS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    PREFETCH: tl.constexpr, AT_ONCE: tl.constexpr, LAST_COMBINES: tl.constexpr, SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (all heads of one key head, 8 at most; split) over its share of positions 0..position, or of the last
    WINDOW. Arguments as of `cuda_kernel.attend`, without FINISH. TILE: 8 T positions for each warp, T a power of two.
    AT_ONCE: a tile is asked for before anything of it is used, else as registers become free."""
    tl.static_assert(not FINISH)
    if PDL and EARLY:
        gdc_launch_dependents()
    QUERY: tl.constexpr = HEAD_DIM if gates is None else 2 * HEAD_DIM
    T: tl.constexpr = TILE // WARPS // 8
    EK: tl.constexpr = 16 if DIMS >= 64 else 8
    C: tl.constexpr = DIMS // 4 // EK
    EV: tl.constexpr = 16 if DIMS >= 128 else DIMS // 8
    CC: tl.constexpr = DIMS // 8 // EV
    kv, split = tl.program_id(0), tl.program_id(1)
    first_head = kv * TOGETHER
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    every = 0 * (j + g + warp)

    # Written by earlier tokens, or never: loaded while the previous kernel still runs.
    position = tl.load(position_at)
    first = oldest(position, WINDOW) if WINDOW > 0 else 0
    span = tl.cdiv(tl.cdiv(position + 1 - first, SPLITS), TILE) * TILE
    begin = first + split * span
    stop = tl.minimum(begin + span, position + 1)
    keys += kv.to(tl.int64) * capacity * HEAD_DIM
    values += kv.to(tl.int64) * capacity * HEAD_DIM
    k_scales += kv.to(tl.int64) * capacity
    v_scales += kv.to(tl.int64) * capacity
    # The first tile, if all of it is old. Other tiles come when they are used, as other warps have loads on their way:
    # carried by the loop, a tile would take a register a byte.
    old = begin + TILE <= position
    early = tl.where(old, stop, begin)
    k, k_scale = _keys(keys, k_scales, begin + every, early, j, g, warp, HEAD_DIM, T, C, EK, ASM)
    v, v_scale = _values(values, v_scales, begin + every, early, j, g, warp, HEAD_DIM, T, CC, EV, ASM)
    if PREFETCH and PDL:  # the next, but for the new position
        size = tl.minimum(tl.minimum(stop, position) - begin - TILE, TILE) * HEAD_DIM
        prefetch_block(keys + (begin + TILE) * HEAD_DIM, size)
        prefetch_block(values + (begin + TILE) * HEAD_DIM, size)
    sink = None if sinks is None else tl.load(sinks + first_head + tl.minimum(g, TOGETHER - 1) + every)
    if PDL:
        gdc_wait()
    if begin > position:
        return

    line = first_head + tl.minimum(tl.arange(0, 8), TOGETHER - 1)[:, None]  # padding repeats a head, and is not stored
    dim = tl.arange(0, DIMS)[None, :]
    q = tl.load(qkv + line * QUERY + dim, mask=dim + 0 * line < HEAD_DIM, other=0.0)
    if PDL and not EARLY:
        gdc_launch_dependents()
    q = of_rows(to_half(q), WARPS, EK, True)
    m = tl.full([1, 8, WARPS], LOWEST, tl.float32)
    total = tl.zeros([1, 8, WARPS], tl.float32)
    acc = tl.zeros([4, 8, WARPS, CC, 2, EV], tl.float32)
    at = _pairs(begin + every, j, g, warp, T, ASM)
    at = tl.where(at < early, at, NEVER)
    m, total, acc = step(
        q, of_keys(to_halves(k, ASM), True), of_values(to_halves(v, ASM), True), k_scale, v_scale, at, position + every,
        m, total, acc, WINDOW, SCALE, SOFTCAP, ASM,
    )  # fmt: skip
    others = tl.where(old, begin + TILE, begin)
    for tile in tl.range(loop_bound(others, ASM), loop_bound(stop, ASM), TILE, num_stages=1):
        k, k_scale = _keys(keys, k_scales, tile + every, stop, j, g, warp, HEAD_DIM, T, C, EK, ASM)
        v, v_scale = _values(values, v_scales, tile + every, stop, j, g, warp, HEAD_DIM, T, CC, EV, ASM)
        if AT_ONCE:
            all_asked_for(ASM)
        at = _pairs(tile + every, j, g, warp, T, ASM)
        at = tl.where(at < stop, at, NEVER)
        m, total, acc = step(
            q, of_keys(to_halves(k, ASM), True), of_values(to_halves(v, ASM), True), k_scale, v_scale, at,
            position + every, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM,
        )  # fmt: skip

    used = tl.cdiv(position + 1 - first, span)
    y, log = settle(m, total, acc, sink, whole(used, SPLITS, LAST_COMBINES), LOWEST)
    y = _first_rows(tl.reshape(y * (1.0 / LARGEST), [8, DIMS]), G)
    y = tl.reshape(y, [G, wide(DIMS, WARPS), side(DIMS, WARPS), each(DIMS, WARPS)])
    y = tl.reshape(tl.permute(y, (2, 1, 0, 3)), [side(DIMS, WARPS), 1, wide(DIMS, WARPS), G, each(DIMS, WARPS)])
    log = _first_rows(tl.reshape(tl.max(log, 2), [8, 1]), G)
    of_heads = None if sinks is None else load_sinks(sinks, first_head, G, TOGETHER)
    hand_over(
        out, high, low, scale, partial, counters + kv, split, used, first_head, TOGETHER, y,
        tl.reshape(log, [1, 1, 1, G, 1]), of_heads, gates, G, HEADS, HEAD_DIM, DIMS, WARPS, SPLITS, LAST_COMBINES, ACT,
        ASM,
    )  # fmt: skip


@triton.jit
def _first_rows(x, G: tl.constexpr):
    """The first G of x's 8 rows."""
    if G == 8:
        return x
    else:
        rows = tl.reshape(x, [8 // G, G, x.shape[1]])
        return tl.sum(tl.where(tl.arange(0, 8 // G)[:, None, None] == 0, rows, 0.0), 0)
