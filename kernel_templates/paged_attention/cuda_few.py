"""Attention over few rows of a text: keys and values from memory to the registers that tensor cores take them from.

What counts with few rows is the path from the previous kernel's end to this one's. Positions, the table and the pages
of earlier passes are older than all of this pass's kernels, so a program loads its first tile before it waits, and
warps have positions of their own: no value goes from one to another before the end.

Of a matrix product of 16 rows, 16 columns and 8 (mma.m16n8k16) thread 4 g + j has, of the left operand, rows g and
g + 8 and columns 2j, 2j + 1, 2j + 8 and 2j + 9 (rows of the right one), and of the result columns 2j and 2j + 1. Which
elements of a head, or positions, those are is free, as long as both sides have the same. So a tile is
[4, 8, WARPS, ...], j, g and warp, and there

    queries  [C, 8]: line g, elements 32 c + 8 j + i
    keys     [T, C, 8]: position 8 t + g of a warp's, elements as of queries
    scores   [T, 2]: line g, position 8 t + 2 j + e
    values   [T, 2, CC, EV]: position 8 t + 2 j + e, element (8 cc + g) EV + i
    outputs  [CC, 2, EV]: line g, element (8 cc + 2 j + e) EV + i

of which a thread holds everything behind the first three axes, in 16 bytes at a time. Lines are at most 8: the other 8
rows of the products are zeros.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import capped, factor
from kernel_templates.cuda.fragments import last_one, place
from kernel_templates.cuda.heads import inverse_rms, load_head, rotate, rotation
from kernel_templates.cuda.instructions import loop_bound, opaque, to_half

LOWEST = tl.constexpr(-1.0e30)  # instead of -inf: the difference of two of them is 0 and no NaN
_NEVER = tl.constexpr(1 << 30)  # a position beyond all


@triton.constexpr_function
def _inside(scale, softcap):
    return factor(scale, softcap) if softcap else 1.0


@triton.constexpr_function
def _outside(scale, softcap):
    return 1.0 if softcap else factor(scale, softcap)


@triton.jit
def _join(m1, l1, m2, l2):
    m = tl.maximum(m1, m2)
    return m, l1 * tl.exp2(m1 - m) + l2 * tl.exp2(m2 - m)


@triton.jit
def _scores(q, k):
    """float32 [4, 8, W, T, 2] of q [W, 16, DIMS] and keys."""
    W: tl.constexpr = k.shape[2]
    T: tl.constexpr = k.shape[3]
    C: tl.constexpr = k.shape[4]
    k = tl.permute(tl.reshape(k, [4, 8, W, T, C, 2, 4]), (2, 4, 5, 0, 6, 3, 1))  # w c a j e t g
    s = tl.dot(q, tl.reshape(k, [W, 32 * C, 8 * T]))
    s = tl.permute(tl.reshape(s, [W, 2, 8, T, 4, 2]), (4, 2, 0, 3, 5, 1))  # j g w t e half
    upper, _lower = tl.split(s)
    return upper


@triton.jit
def _left(x):
    """[W, 16, K] of [4, 8, W, K // 8, 2], rows from 8 on zeros."""
    W: tl.constexpr = x.shape[2]
    T: tl.constexpr = x.shape[3]
    x = tl.reshape(tl.join(x, tl.zeros(x.shape, x.dtype)), [4, 8, W, T // 2, 2, 2, 2])  # j g w s p e half
    return tl.reshape(tl.permute(x, (2, 6, 1, 3, 0, 4, 5)), [W, 16, 8 * T])  # w half g s j p e


@triton.jit
def _outputs(weights, v):
    """float32 [4, 8, W, CC, 2, EV] of weights float32 [4, 8, W, T, 2] and values."""
    W: tl.constexpr = v.shape[2]
    T: tl.constexpr = v.shape[3]
    CC: tl.constexpr = v.shape[5]
    EV: tl.constexpr = v.shape[6]
    v = tl.permute(tl.reshape(v, [4, 8, W, T // 2, 2, 2, CC, EV]), (2, 3, 0, 4, 5, 6, 7, 1))  # w s j p e cc i g
    v = tl.reshape(v, [W, 8 * T, 8 * CC * EV])
    y = tl.dot(_left(weights.to(tl.float16)), v)
    y = tl.permute(tl.reshape(y, [W, 2, 8, CC, EV, 4, 2]), (5, 2, 0, 3, 6, 4, 1))  # j g w cc e i half
    upper, _lower = tl.split(y)
    return upper


@triton.jit
def _step(
    q, k, v, at, p, m, total, acc,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A step of each warp's online softmax. at: [4, 8, W, T, 2]; p: [4, 8, W]; m, total [1, 8, W]."""
    W: tl.constexpr = k.shape[2]
    T: tl.constexpr = k.shape[3]
    OUTSIDE: tl.constexpr = _outside(SCALE, SOFTCAP)
    s = _scores(q, k)
    if SOFTCAP > 0:
        INSIDE: tl.constexpr = _inside(SCALE, SOFTCAP)
        s = capped(s * INSIDE, SOFTCAP, ASM)
    seen = at <= p[:, :, :, None, None]
    if WINDOW > 0:
        seen = seen & (at > p[:, :, :, None, None] - WINDOW)
    s = tl.where(seen, s, LOWEST)
    top = tl.max(tl.max(tl.reshape(s, [4, 8, W, 2 * T]), 3), 0, keep_dims=True) * OUTSIDE
    top = tl.maximum(m, top)
    share = tl.exp2(m - top)
    weights = tl.exp2(s * OUTSIDE - top[:, :, :, None, None])
    total = total * share + tl.sum(tl.sum(tl.reshape(weights, [4, 8, W, 2 * T]), 3), 0, keep_dims=True)
    acc = acc * share[:, :, :, None, None, None] + _outputs(weights, v)
    return top, total, acc


@triton.jit
def _finished(x, partner, own, other, eps, HEAD_DIM: tl.constexpr, QK_NORM: tl.constexpr):
    """float16 [4, 8, W, C, 8] of raw heads [4, 8, W, C, 2, 4]."""
    W: tl.constexpr = x.shape[2]
    C: tl.constexpr = x.shape[3]
    y = rotate(x, partner, own, other)
    if QK_NORM:
        squares = tl.sum(tl.sum(tl.reshape(x * x, [4, 8, W, 8 * C]), 3), 0, keep_dims=True)
        y = y * inverse_rms(squares, eps, HEAD_DIM)[:, :, :, None, None, None]
    return tl.reshape(to_half(y), [4, 8, W, C, 8])


@triton.jit
def _turns(norm, row, j, every, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, QK_NORM: tl.constexpr, C: tl.constexpr):
    """own and other of `heads.rotation`, [4, 8, W, C, 2, 4]. row: pointers to a position's cosines and sines."""
    part = 4 * tl.arange(0, 2)[None, None, None, None, :, None] + tl.arange(0, 4)[None, None, None, None, None, :]
    if ROPE_DIM == 32 * C and C > 1:  # a thread has both of a pair that turns
        W: tl.constexpr = every.shape[2]
        at = 32 * tl.arange(0, C // 2)[None, None, None, :, None, None] + part
        row = (row + (8 * j + every))[:, :, :, None, None, None]
        cos, sin = tl.load(row + at), tl.load(row + (16 * C + at))
        if QK_NORM:
            norm = (norm + (8 * j + every))[:, :, :, None, None, None]
            low, high = tl.load(norm + at), tl.load(norm + (16 * C + at))
            own, other = _both(cos * low, cos * high), _both(-sin * high, sin * low)
        else:
            own, other = _both(cos, cos), _both(-sin, sin)
        return own, other
    else:
        dim = 32 * tl.arange(0, C)[None, None, None, :, None, None] + part + (8 * j + every)[:, :, :, None, None, None]
        return rotation(norm, row[:, :, :, None, None, None], dim, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)


@triton.jit
def _both(low, high):
    """[4, 8, W, C, 2, 4] of the first and the second half of the heads, [4, 8, W, C / 2, 2, 4]."""
    both = tl.permute(tl.join(low, high), (0, 1, 2, 6, 3, 4, 5))
    return tl.reshape(both, [4, 8, low.shape[2], 2 * low.shape[3], 2, 4])


@triton.jit
def _load_raw(
    head, bias, j, every, kept, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, BIAS: tl.constexpr, C: tl.constexpr
):
    """Heads at pointers `head`, whose bias lies at `bias`, [4, 8, W], where `kept`, and their partners:
    [4, 8, W, C, 2, 4]."""
    part = 4 * tl.arange(0, 2)[None, None, None, None, :, None] + tl.arange(0, 4)[None, None, None, None, None, :]
    if ROPE_DIM == 32 * C and C > 1:
        at = 32 * tl.arange(0, C // 2)[None, None, None, :, None, None] + part
        kept = kept[:, :, :, None, None, None]
        head = (head + 8 * j)[:, :, :, None, None, None]
        low, high = tl.load(head + at, mask=kept, other=0.0), tl.load(head + (16 * C + at), mask=kept, other=0.0)
        if BIAS:
            bias = (bias + 8 * j)[:, :, :, None, None, None]
            low += tl.load(bias + at, mask=kept, other=0.0)
            high += tl.load(bias + (16 * C + at), mask=kept, other=0.0)
        return _both(low, high), _both(high, low)
    else:
        dim = 32 * tl.arange(0, C)[None, None, None, :, None, None] + part + (8 * j + every)[:, :, :, None, None, None]
        mask = kept[:, :, :, None, None, None] & (dim < HEAD_DIM)
        x, partner = load_head(head[:, :, :, None, None, None], dim, mask, ROPE_DIM)
        if BIAS:
            b, partner_b = load_head(bias[:, :, :, None, None, None], dim, mask, ROPE_DIM)
            x, partner = x + b, partner + partner_b
        return x, partner


@triton.jit
def _tile(
    keys, values, table, base, first, cached, j, g, warp,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, T: tl.constexpr, C: tl.constexpr, CC: tl.constexpr, EV: tl.constexpr,
):  # fmt: skip
    """Keys and values of positions from `base` on, zeros outside first..cached."""
    t = tl.arange(0, T)[None, None, None, :]
    own = base + warp * (8 * T)
    kp = own[:, :, :, None] + 8 * t + g[:, :, :, None] + 0 * j[:, :, :, None]
    vp = (own[:, :, :, None] + 8 * t + 2 * j[:, :, :, None] + 0 * g[:, :, :, None])[:, :, :, :, None]
    vp = vp + tl.arange(0, 2)[None, None, None, None, :]
    if PAGE >= 8 * T:  # one for each warp
        entry = tl.maximum(tl.minimum(own + 0 * (j + g), cached), 0) // PAGE
        page = tl.multiple_of(tl.load(table + entry), (8, 8, 8))
        k_page, v_page = page[:, :, :, None], page[:, :, :, None, None]
    else:
        k_page = tl.multiple_of(tl.load(table + tl.maximum(tl.minimum(kp, cached), 0) // PAGE), (8, 8, 8, 8))
        v_page = tl.multiple_of(tl.load(table + tl.maximum(tl.minimum(vp, cached), 0) // PAGE), (8, 8, 8, 8, 8))
    # What is known when compiling is added last: then it is part of the instruction.
    kd = 32 * tl.arange(0, C)[None, None, None, None, :, None] + tl.arange(0, 8)[None, None, None, None, None, :]
    inside = ((kp >= first) & (kp <= cached))[:, :, :, :, None, None]
    if 32 * C != HEAD_DIM:
        inside = inside & (kd + 8 * j[:, :, :, None, None, None] < HEAD_DIM)
    k_from = keys + (k_page + (kp % PAGE) * HEAD_DIM + (8 * j)[:, :, :, None])
    k = tl.load(k_from[:, :, :, :, None, None] + kd, mask=inside, other=0.0)
    vd = 8 * EV * tl.arange(0, CC)[None, None, None, None, None, :, None]
    vd = vd + tl.arange(0, EV)[None, None, None, None, None, None, :]
    inside = ((vp >= first) & (vp <= cached))[:, :, :, :, :, None, None]
    if 32 * C != HEAD_DIM:
        inside = inside & (vd + EV * g[:, :, :, None, None, None, None] < HEAD_DIM)
    v_from = values + (v_page + (vp % PAGE) * HEAD_DIM + (EV * g)[:, :, :, None, None])
    v = tl.load(v_from[:, :, :, :, :, None, None] + vd, mask=inside, other=0.0)
    return k, v, tl.where(vp <= cached, vp, _NEVER)


@triton.jit
def attend_few(
    q, cache, table, positions, sequences, out, partial, counters, bias, q_norm, k_norm, rope, eps,
    layer, values, head_stride, pages, lines,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    BLOCK: tl.constexpr, TOGETHER: tl.constexpr, TILE: tl.constexpr, WARPS: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, EACH: tl.constexpr,
    FINISH: tl.constexpr, QK_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program and arguments as of `cuda_kernel.attend_pages`, of at most 8 tokens a text and 8 lines a program: TOGETHER
    heads of BLOCK tokens. FINISH: q is raw heads as `own_rows` has them; else the rows' own keys and values are in the
    pages when the kernel in front has ended, and q is float16. DIMS: 32 at least."""
    if PDL:
        gdc_launch_dependents()
    GROUP: tl.constexpr = HEADS // KV_HEADS
    PARTS: tl.constexpr = (GROUP + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    T: tl.constexpr = TILE // WARPS // 8
    C: tl.constexpr = DIMS // 32
    EV: tl.constexpr = 8 if DIMS >= 64 else 4
    CC: tl.constexpr = DIMS // 8 // EV
    column, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv, text = column // PARTS, block // BLOCKS
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    every = 0 * (j + g + warp)

    # Written before this pass began.
    oldest, last = _NEVER, -1
    for i in tl.static_range(TOKENS):
        position = tl.load(positions + text * TOKENS + i)
        oldest, last = tl.minimum(oldest, tl.where(position >= 0, position, _NEVER)), tl.maximum(last, position)
    table += tl.load(sequences + text * TOKENS) * pages
    token = block % BLOCKS * BLOCK + g // TOGETHER
    head = column % PARTS * TOGETHER + g % TOGETHER  # of those that share the key head
    there = (g < BLOCK * TOGETHER) & (token < TOKENS) & (head < GROUP)
    row = text * TOKENS + tl.minimum(token, TOKENS - 1) + every
    head = kv * GROUP + tl.minimum(head, GROUP - 1) + every
    p = tl.load(positions + row, mask=there, other=-1)
    cached = tl.minimum(oldest - 1, last)  # the last position that is older than the pass
    first = tl.maximum(oldest + 1 - WINDOW, 0) if WINDOW > 0 else 0
    from_tile, to_tile = first // TILE, (cached + TILE) // TILE
    tiles = tl.maximum(to_tile - from_tile, 0)
    span = tl.cdiv(tiles, SPLITS - 1)
    own = split == 0
    begin = from_tile + (split - 1) * span
    end = tl.minimum(begin + span, to_tile)
    used = tl.cdiv(tiles, tl.maximum(span, 1)) + 1
    if split >= used:
        return
    keys = cache + layer + kv.to(tl.int64) * head_stride
    m = tl.full([1, 8, WARPS], LOWEST, tl.float32)
    total = tl.zeros([1, 8, WARPS], tl.float32)
    acc = tl.zeros([4, 8, WARPS, CC, 2, EV], tl.float32)
    if FINISH:
        turns = rope + tl.maximum(p, 0).to(tl.int64) * ROPE_DIM
        q_own, q_other = _turns(q_norm, turns, j, every, HEAD_DIM, ROPE_DIM, QK_NORM, C)
    else:
        q_own, q_other = p, p  # of no use
    if own:
        k, v, at, queries = _own_rows(
            q, q_own, q_other, keys, keys + values, table, positions, bias, k_norm, rope, eps, text, kv, oldest, last,
            (block % BLOCKS == 0) & (column % PARTS == 0), row, head, p, there, j, g, warp,
            TOKENS, HEADS, KV_HEADS, HEAD_DIM, PAGE, C, CC, EV, FINISH, QK_NORM, BIAS, ROPE_DIM, PDL, ASM,
        )  # fmt: skip
        m, total, acc = _step(queries, k, v, at, p, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM)
    else:
        k, v, at = _tile(
            keys, keys + values, table, begin * TILE, first, cached, j, g, warp, HEAD_DIM, PAGE, T, C, CC, EV
        )
        if PDL:
            gdc_wait()
        queries = _queries(
            q, q_own, q_other, bias, eps, row, head, p, there, j, every,
            HEADS, KV_HEADS, HEAD_DIM, C, FINISH, QK_NORM, BIAS, ROPE_DIM,
        )  # fmt: skip
        for tile in tl.range(loop_bound(begin, ASM), loop_bound(end, ASM), num_stages=1):
            m, total, acc = _step(queries, k, v, at, p, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM)
            if tile + 1 < end:
                k, v, at = _tile(
                    keys, keys + values, table, (tile + 1) * TILE, first, cached, j, g, warp, HEAD_DIM, PAGE, T, C, CC, EV
                )

    if WARPS > 1:
        top, total = tl.reduce((m, total), 2, _join, keep_dims=True)
    else:
        top = m
    share = tl.exp2(m - top) * (1.0 / tl.where(total > 0, total, 1.0))
    y = _of_all_warps(acc * share[:, :, :, None, None, None])
    log = tl.where(total > 0, top + tl.log2(tl.where(total > 0, total, 1.0)), LOWEST)
    # Each thread has elements of its own of all lines.
    i = opaque(tl.arange(0, 8 * DIMS), ASM)
    line_of, here = _line(column, block, i // DIMS, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    d, here = i % DIMS, here & (i % DIMS < HEAD_DIM)
    if used == 1:
        column_of = line_of % HEADS * HEAD_DIM + d
        to = out + (line_of // HEADS).to(tl.int64) * WIDTH + place(column_of, ORDER)
        tl.store(to, to_half(y), mask=here)
    else:
        tl.store(partial + (line_of * SPLITS + split).to(tl.int64) * HEAD_DIM + d, y, mask=here)
        one = there & (j == 0) & (warp == 0)
        log_at = lines * SPLITS * HEAD_DIM + (row * HEADS + head) * SPLITS + split
        tl.store(partial + log_at, log + every, mask=one)
        if last_one(counters, block * tl.num_programs(0) + column, used):
            n = tl.arange(0, LINES)[None, :, None]
            joined, exists = _line(column, block, n, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
            e = tl.arange(0, DIMS // EACH)[:, None, None] * EACH + tl.arange(0, EACH)[None, None, :]
            whole = _join_splits(partial, joined, e, exists, used, lines, HEAD_DIM, SPLITS, RUN, ASM)
            to = out + (joined // HEADS).to(tl.int64) * WIDTH + place(joined % HEADS * HEAD_DIM + e, ORDER)
            tl.store(to, to_half(whole), mask=exists & (e < HEAD_DIM))


@triton.jit
def _line(
    column, block, n, TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """Of lines n of a program: row * HEADS + head, and whether there is such a line."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    PARTS: tl.constexpr = (GROUP + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    token = block % BLOCKS * BLOCK + n // TOGETHER
    head = column % PARTS * TOGETHER + n % TOGETHER
    there = (n < BLOCK * TOGETHER) & (token < TOKENS) & (head < GROUP)
    return (block // BLOCKS * TOKENS + token) * HEADS + column // PARTS * GROUP + head, there


@triton.jit
def _queries(
    q, own, other, bias, eps, row, head, p, there, j, every,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, C: tl.constexpr, FINISH: tl.constexpr,
    QK_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr,
):  # fmt: skip
    """float16 [W, 16, DIMS]: the left operand of scores. own, other: `_turns` of the lines' positions p."""
    W: tl.constexpr = every.shape[2]
    if FINISH:
        raw = q + (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
        x, partner = _load_raw(raw, bias + head * HEAD_DIM, j, every, p >= 0, HEAD_DIM, ROPE_DIM, BIAS, C)
        x = _finished(x, partner, own, other, eps, HEAD_DIM, QK_NORM)
    else:
        d = 32 * tl.arange(0, C)[None, None, None, :, None] + tl.arange(0, 8)[None, None, None, None, :]
        kept = there[:, :, :, None, None]
        if 32 * C != HEAD_DIM:
            kept = kept & (d + 8 * j[:, :, :, None, None] < HEAD_DIM)
        start = q + ((row.to(tl.int64) * HEADS + head) * HEAD_DIM + 8 * j)
        x = tl.load(start[:, :, :, None, None] + d, mask=kept, other=0.0)
    x = tl.reshape(x, [4, 8, W, C, 2, 4])  # c a e
    x = tl.permute(tl.join(x, tl.zeros(x.shape, tl.float16)), (2, 6, 1, 3, 4, 0, 5))  # w half g c a j e
    return tl.reshape(x, [W, 16, 32 * C])


@triton.jit
def _own_rows(
    q, q_own, q_other, keys, values, table, positions, bias, k_norm, rope, eps, text, kv, oldest, last, writes,
    row, head, p, there, j, g, warp,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    C: tl.constexpr, CC: tl.constexpr, EV: tl.constexpr, FINISH: tl.constexpr, QK_NORM: tl.constexpr,
    BIAS: tl.constexpr, ROPE_DIM: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Keys, values and positions of the pass's own rows as a tile of two times 8 positions, those of the first warp, and
    `_queries`. Waits for the kernel in front."""
    W: tl.constexpr = warp.shape[2]
    every = 0 * (j + g + warp)
    pair = opaque(tl.arange(0, 2), ASM)[None, None, None, :]  # not next to each other, or two lanes would load them
    one = 2 * j[:, :, :, None] + pair + every[:, :, :, None]  # of values: rows 2 j + e
    mine = (warp == 0) & (g + every < TOKENS)
    mine_v = (warp == 0)[:, :, :, None] & (one < TOKENS)
    if FINISH:
        k_at = tl.load(positions + text * TOKENS + g + every, mask=mine, other=-1)
        v_at = tl.load(positions + text * TOKENS + one, mask=mine_v, other=-1)
        turns = rope + tl.maximum(k_at, 0).to(tl.int64) * ROPE_DIM
        k_own, k_other = _turns(k_norm, turns, j, every, HEAD_DIM, ROPE_DIM, QK_NORM, C)
    else:
        k_at, v_at = oldest + g + every, oldest + one
        mine, mine_v = mine & (k_at <= last), mine_v & (v_at <= last)
        k_at, v_at = tl.where(mine, k_at, -1), tl.where(mine_v, v_at, -1)
    k_page = tl.load(table + tl.maximum(k_at, 0) // PAGE, mask=k_at >= 0, other=0)
    v_page = tl.load(table + tl.maximum(v_at, 0) // PAGE, mask=v_at >= 0, other=0)
    k_page, v_page = tl.multiple_of(k_page, (8, 8, 8)), tl.multiple_of(v_page, (8, 8, 8, 8))
    kd = 32 * tl.arange(0, C)[None, None, None, :, None] + tl.arange(0, 8)[None, None, None, None, :]
    vd = 8 * EV * tl.arange(0, CC)[None, None, None, None, :, None] + tl.arange(0, EV)[None, None, None, None, None, :]
    k_to = (keys + (k_page + (tl.maximum(k_at, 0) % PAGE) * HEAD_DIM + 8 * j))[:, :, :, None, None] + kd
    v_to = values + (v_page + (tl.maximum(v_at, 0) % PAGE) * HEAD_DIM + EV * g[:, :, :, None])
    v_to = v_to[:, :, :, :, None, None] + vd
    k_some, v_some = (k_at >= 0)[:, :, :, None, None], (v_at >= 0)[:, :, :, :, None, None]
    if 32 * C != HEAD_DIM:
        k_some = k_some & (kd + 8 * j[:, :, :, None, None] < HEAD_DIM)
        v_some = v_some & (vd + EV * g[:, :, :, None, None, None] < HEAD_DIM)
    if PDL:
        gdc_wait()
    if FINISH:
        TOTAL: tl.constexpr = HEADS + 2 * KV_HEADS
        raw = q + ((text * TOKENS + g + every).to(tl.int64) * TOTAL + HEADS + kv) * HEAD_DIM
        bias_at = bias + ((HEADS + kv) * HEAD_DIM + every)
        x, partner = _load_raw(raw, bias_at, j, every, k_at >= 0, HEAD_DIM, ROPE_DIM, BIAS, C)
        fd = 8 * EV * tl.arange(0, CC)[None, None, None, None, :, None, None]
        fd = fd + 4 * tl.arange(0, EV // 4)[None, None, None, None, None, :, None]
        fd = fd + tl.arange(0, 4)[None, None, None, None, None, None, :]
        kept = (v_at >= 0)[:, :, :, :, None, None, None]
        if 32 * C != HEAD_DIM:
            kept = kept & (fd + EV * g[:, :, :, None, None, None, None] < HEAD_DIM)
        raw_v = q + (((text * TOKENS + one).to(tl.int64) * TOTAL + HEADS + KV_HEADS + kv) * HEAD_DIM + EV * g[:, :, :, None])
        v = tl.load(raw_v[:, :, :, :, None, None, None] + fd, mask=kept, other=0.0)
        if BIAS:
            b = bias + ((HEADS + KV_HEADS + kv) * HEAD_DIM + EV * g[:, :, :, None, None, None, None])
            v += tl.load(b + fd + 0 * one[:, :, :, :, None, None, None], mask=kept, other=0.0)
    queries = _queries(
        q, q_own, q_other, bias, eps, row, head, p, there, j, every,
        HEADS, KV_HEADS, HEAD_DIM, C, FINISH, QK_NORM, BIAS, ROPE_DIM,
    )  # fmt: skip
    if FINISH:
        k = _finished(x, partner, k_own, k_other, eps, HEAD_DIM, QK_NORM)
        v = tl.reshape(to_half(v), [4, 8, W, 2, CC, EV])
        tl.store(k_to, k, mask=k_some & writes)
        tl.store(v_to, v, mask=v_some & writes)
    else:
        k = tl.load(k_to, mask=k_some, other=0.0)
        v = tl.load(v_to, mask=v_some, other=0.0)
    k = tl.permute(tl.join(k, tl.zeros(k.shape, k.dtype)), (0, 1, 2, 5, 3, 4))
    v = tl.permute(tl.join(v, tl.zeros(v.shape, v.dtype)), (0, 1, 2, 6, 3, 4, 5))
    at = tl.where(v_at >= 0, v_at, _NEVER)
    at = tl.permute(tl.join(at, tl.full(at.shape, _NEVER, tl.int32)), (0, 1, 2, 4, 3))
    return k, v, at, queries


@triton.jit
def _of_all_warps(acc):
    """float32 [8 * DIMS]: line after line, summed over warps."""
    W: tl.constexpr = acc.shape[2]
    SIZE: tl.constexpr = 32 * acc.shape[3] * 2 * acc.shape[5]
    y = tl.permute(acc, (2, 1, 3, 0, 4, 5))  # w g cc j e i
    if W == 1:
        return tl.reshape(y, [SIZE])
    else:
        y = tl.permute(tl.reshape(y, [W // 2, 2, SIZE]), (0, 2, 1))
        even, odd = tl.split(y)
        return tl.sum(even + odd, 0)


@triton.jit
def _join_splits(
    partial, line, element, exists, used, lines, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr, RUN: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """float32 [X, LINES, EACH]: elements [X, 1, EACH] of lines [1, LINES, 1] from the parts that `used` splits have
    left, RUN of them at a time, all in one thread. Read past the first-level cache, which others' stores do not reach."""
    X: tl.constexpr = element.shape[0]
    LINES: tl.constexpr = line.shape[1]
    EACH: tl.constexpr = element.shape[2]
    line, element, exists = line[:, :, None, :], element[:, :, None, :], exists[:, :, None, :]
    every = tl.zeros([X, LINES, RUN, 1], tl.int32)  # a logarithm for each thread, where it is needed
    m = tl.full([X, LINES, 1, 1], LOWEST, tl.float32)
    total = tl.zeros([X, LINES, 1, 1], tl.float32)
    acc = tl.zeros([X, LINES, 1, EACH], tl.float32)
    for step in tl.range(loop_bound(0 * used, ASM), loop_bound(tl.cdiv(used, RUN), ASM), num_stages=1):
        split = step * RUN + opaque(tl.arange(0, RUN), ASM)[None, None, :, None]
        have = exists & (split < used)
        part = line * SPLITS + split
        log = tl.load(
            partial + lines * SPLITS * HEAD_DIM + (part + every), mask=have, other=LOWEST, cache_modifier=".cg"
        )
        at = part.to(tl.int64) * HEAD_DIM + element
        y = tl.load(partial + at, mask=have & (element < HEAD_DIM), other=0.0, cache_modifier=".cg")
        top = tl.maximum(m, tl.max(log, 2, keep_dims=True))
        kept, new = tl.exp2(m - top), tl.where(have, tl.exp2(log - top), 0.0)
        total = total * kept + tl.sum(new, 2, keep_dims=True)
        acc = acc * kept + tl.sum(y * new, 2, keep_dims=True)
        m = top
    y = acc * (1.0 / tl.where(total > 0, total, 1.0))
    return tl.reshape(y, [X, LINES, EACH])
