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
from kernel_templates.paged_attention.own_rows import finished, load_raw, load_values, turns

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
def _key_operand(k):
    """The right operand of scores, [W, DIMS, 8 T], of a tile of keys."""
    W: tl.constexpr = k.shape[2]
    T: tl.constexpr = k.shape[3]
    C: tl.constexpr = k.shape[4]
    k = tl.permute(tl.reshape(k, [4, 8, W, T, C, 2, 2, 2]), (2, 4, 5, 6, 0, 7, 3, 1))  # w c a p j e t g
    return tl.reshape(k, [W, 32 * C, 8 * T])


@triton.jit
def _value_operand(v):
    """The right operand of outputs, [W, 8 T, DIMS], of a tile of values."""
    W: tl.constexpr = v.shape[2]
    T: tl.constexpr = v.shape[3]
    CC: tl.constexpr = v.shape[5]
    EV: tl.constexpr = v.shape[6]
    return tl.reshape(tl.permute(v, (2, 3, 0, 4, 5, 6, 1)), [W, 8 * T, 8 * CC * EV])  # w t j e cc i g


@triton.jit
def _row_operand(x, W: tl.constexpr):
    """float16 [W, 16, DIMS], the left operand of scores, of rows [n, DIMS], again and again until there are 16."""
    N: tl.constexpr = x.shape[0]
    DIMS: tl.constexpr = x.shape[1]
    x = tl.permute(tl.reshape(x, [N, DIMS // 32, 4, 2, 2, 2]), (0, 1, 3, 4, 2, 5))  # c a p j e
    x = tl.reshape(x, [1, 1, N, DIMS])
    return tl.reshape(tl.broadcast_to(x, [W, 16 // N, N, DIMS]), [W, 16, DIMS])


@triton.jit
def _own_value_operand(x, W: tl.constexpr, EV: tl.constexpr):
    """float16 [W, 16, DIMS], the right operand of outputs, of rows [n, DIMS], again and again."""
    N: tl.constexpr = x.shape[0]
    DIMS: tl.constexpr = x.shape[1]
    x = tl.permute(tl.reshape(x, [N, DIMS // 8 // EV, 8, EV]), (0, 1, 3, 2))  # cc i g
    x = tl.reshape(x, [1, 1, N, DIMS])
    return tl.reshape(tl.broadcast_to(x, [W, 16 // N, N, DIMS]), [W, 16, DIMS])


@triton.jit
def _scores(q, k):
    """float32 [4, 8, W, T, 2] of operands [W, 16, DIMS] and [W, DIMS, 8 T]."""
    W: tl.constexpr = k.shape[0]
    T: tl.constexpr = k.shape[2] // 8
    s = tl.permute(tl.reshape(tl.dot(q, k), [W, 2, 8, T, 4, 2]), (4, 2, 0, 3, 5, 1))  # j g w t e half
    upper, _lower = tl.split(s)
    return upper


@triton.jit
def _left(x):
    """[W, 16, K] of [4, 8, W, K // 8, 2]; the lower 8 rows, of no use, are the upper ones."""
    W: tl.constexpr = x.shape[2]
    T: tl.constexpr = x.shape[3]
    # Not by `join`, for which Triton thinks of weights of 4 bits and gives a thread other columns.
    x = tl.broadcast_to(x[:, :, :, :, :, None], [4, 8, W, T, 2, 2])
    return tl.reshape(tl.permute(x, (2, 5, 1, 3, 0, 4)), [W, 16, 8 * T])  # w half g t j e


@triton.jit
def _outputs(weights, v, CC: tl.constexpr, EV: tl.constexpr):
    """float32 [4, 8, W, CC, 2, EV] of weights float32 [4, 8, W, T, 2] and the operand of values."""
    y = tl.dot(_left(weights.to(tl.float16)), v)
    y = tl.permute(tl.reshape(y, [v.shape[0], 2, 8, CC, EV, 4, 2]), (5, 2, 0, 3, 6, 4, 1))  # j g w cc e i half
    upper, _lower = tl.split(y)
    return upper


@triton.jit
def _step(
    q, k, v, at, p, m, total, acc,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A step of each warp's online softmax. q, k, v: operands; at: [4, 8, W, T, 2]; p: [4, 8, W]; m, total [1, 8, W]."""
    W: tl.constexpr = k.shape[0]
    T: tl.constexpr = k.shape[2] // 8
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
    acc = acc * share[:, :, :, None, None, None] + _outputs(weights, v, acc.shape[3], acc.shape[5])
    return top, total, acc


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
    return _key_operand(k), _value_operand(v), tl.where(vp <= cached, vp, _NEVER)


@triton.jit
def attend_few(
    q, cache, table, positions, sequences, out, partial, counters, bias, q_norm, k_norm, rope, eps,
    layer, values, head_stride, pages, lines,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    BLOCK: tl.constexpr, TOGETHER: tl.constexpr, TILE: tl.constexpr, WARPS: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, LAST_JOINS: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, EACH: tl.constexpr,
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
    oldest, last, first, from_tile, tiles, span, used = _shares(positions, text, TOKENS, TILE, SPLITS, WINDOW)
    cached = tl.minimum(oldest - 1, last)  # the last position that is older than the pass
    table += tl.load(sequences + text * TOKENS) * pages
    token = block % BLOCKS * BLOCK + g // TOGETHER
    head = column % PARTS * TOGETHER + g % TOGETHER  # of those that share the key head
    there = (g < BLOCK * TOGETHER) & (token < TOKENS) & (head < GROUP)
    row = text * TOKENS + token + every
    p = tl.load(positions + row, mask=there, other=-1)
    begin = from_tile + (split - 1) * span
    end = tl.minimum(begin + span, from_tile + tiles)
    if split >= used:
        return
    keys = cache + layer + kv.to(tl.int64) * head_stride
    m = tl.full([1, 8, WARPS], LOWEST, tl.float32)
    total = tl.zeros([1, 8, WARPS], tl.float32)
    acc = tl.zeros([4, 8, WARPS, CC, 2, EV], tl.float32)
    POWER: tl.constexpr = triton.next_power_of_2(TOKENS)
    OWN: tl.constexpr = max(POWER, min(WARPS, 8))
    AGAIN: tl.constexpr = max(LINES, min(WARPS, 8))  # so that each warp has a whole one
    line, lined = _line(column, block, tl.arange(0, AGAIN) % LINES, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    line_at = tl.load(positions + line // HEADS, mask=lined, other=-1)
    q_own, q_other = line_at, line_at
    if FINISH:
        q_own, q_other = turns(q_norm, rope, line_at, HEAD_DIM, DIMS, ROPE_DIM, QK_NORM)
    if split == 0:
        own_k, own_v, own_at, own_queries = _own_rows(
            q, bias, q_own, q_other, line, line_at, keys, keys + values, table, positions, k_norm, rope, eps, text, kv,
            oldest, last, (block % BLOCKS == 0) & (column % PARTS == 0), j, g, warp,
            TOKENS, POWER, OWN, HEADS, KV_HEADS, HEAD_DIM, DIMS, PAGE, EV, FINISH, QK_NORM, BIAS, ROPE_DIM, PDL, ASM,
        )  # fmt: skip
        m, total, acc = _step(own_queries, own_k, own_v, own_at, p, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM)
    else:
        k, v, at = _tile(
            keys, keys + values, table, begin * TILE, first, cached, j, g, warp, HEAD_DIM, PAGE, T, C, CC, EV
        )
        if PDL:
            gdc_wait()
        queries = _lines_of_q(
            q, bias, q_own, q_other, line, line_at, eps, HEADS, KV_HEADS, HEAD_DIM, DIMS, FINISH, QK_NORM, BIAS,
            ROPE_DIM,
        )  # fmt: skip
        queries = _row_operand(queries, WARPS)
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
        log_at = lines * SPLITS * HEAD_DIM + (row * HEADS + kv * GROUP + head) * SPLITS + split
        tl.store(partial + log_at, log + every, mask=one)
        if LAST_JOINS:  # noqa: SIM102 - of `and`, Triton would compile the other side too
            if last_one(counters, block * tl.num_programs(0) + column, used):
                n = tl.arange(0, LINES)[None, :, None]
                joined, exists = _line(column, block, n, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
                e = tl.arange(0, DIMS // EACH)[:, None, None] * EACH + tl.arange(0, EACH)[None, None, :]
                whole = _join_splits(partial, joined, e, exists, used, lines, HEAD_DIM, SPLITS, RUN, ASM)
                to = out + (joined // HEADS).to(tl.int64) * WIDTH + place(joined % HEADS * HEAD_DIM + e, ORDER)
                tl.store(to, to_half(whole), mask=exists & (e < HEAD_DIM))


@triton.jit
def _shares(
    positions, text, TOKENS: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr
):
    """How the positions of a text are shared: the pass's first and last; the first that any row sees, its tile, and how
    many tiles there are before the pass; those of a split, and how many splits have any, the one of the pass's own rows
    included."""
    oldest, last = _NEVER, -1
    for i in tl.static_range(TOKENS):
        position = tl.load(positions + text * TOKENS + i)
        oldest, last = tl.minimum(oldest, tl.where(position >= 0, position, _NEVER)), tl.maximum(last, position)
    cached = tl.minimum(oldest - 1, last)
    first = tl.maximum(oldest + 1 - WINDOW, 0) if WINDOW > 0 else 0
    from_tile = first // TILE
    tiles = tl.maximum((cached + TILE) // TILE - from_tile, 0)
    span = tl.cdiv(tiles, SPLITS - 1)
    return oldest, last, first, from_tile, tiles, span, tl.cdiv(tiles, tl.maximum(span, 1)) + 1


@triton.jit
def join_few(
    partial, out, positions, lines,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, RUN: tl.constexpr, EACH: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr,
    ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (line: a head of a row): join the splits that `attend_few` left."""
    if PDL:
        gdc_launch_dependents()
    line = tl.program_id(0)
    _oldest, _last, _first, _from, _tiles, _span, used = _shares(
        positions, line // HEADS // TOKENS, TOKENS, TILE, SPLITS, WINDOW
    )
    if PDL:
        gdc_wait()
    if used > 1:
        line = line + tl.zeros([1, 1, 1], tl.int32)
        e = tl.arange(0, DIMS // EACH)[:, None, None] * EACH + tl.arange(0, EACH)[None, None, :]
        whole = _join_splits(partial, line, e, line >= 0, used, lines, HEAD_DIM, SPLITS, RUN, ASM)
        to = out + (line // HEADS).to(tl.int64) * WIDTH + place(line % HEADS * HEAD_DIM + e, ORDER)
        tl.store(to, to_half(whole), mask=e < HEAD_DIM)


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
def _lines_of_q(
    q, bias, own, other, line, at, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, FINISH: tl.constexpr,
    QK_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr,
):  # fmt: skip
    """float16 [LINES, DIMS] of lines row * HEADS + head [LINES], those at a position `at` of -1 zeros."""
    if FINISH:
        x, partner = load_raw(
            q, bias, line // HEADS, line % HEADS, at >= 0, HEADS, KV_HEADS, HEAD_DIM, DIMS, ROPE_DIM, BIAS
        )
        return finished(x, partner, own, other, eps, HEAD_DIM, QK_NORM)
    else:
        dim = tl.arange(0, DIMS)[None, :]
        mask = (at >= 0)[:, None] & (dim < HEAD_DIM)
        return tl.load(q + line[:, None].to(tl.int64) * HEAD_DIM + dim, mask=mask, other=0.0)


@triton.jit
def _own_rows(
    q, bias, q_own, q_other, line, line_at, keys, values, table, positions, k_norm, rope, eps, text, kv, oldest, last,
    writes, j, g, warp,
    TOKENS: tl.constexpr, POWER: tl.constexpr, OWN: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr, PAGE: tl.constexpr, EV: tl.constexpr, FINISH: tl.constexpr, QK_NORM: tl.constexpr,
    BIAS: tl.constexpr, ROPE_DIM: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Operands of the pass's own rows as a tile of 16 positions of the first warp's, and of queries, after the wait for
    the kernel in front. POWER: TOKENS or the next power of two; OWN: rows that are loaded, so many that each
    warp has a whole one: the same again."""
    W: tl.constexpr = warp.shape[2]
    t = opaque(tl.arange(0, 2), ASM)[None, None, None, :, None]  # not next to each other, or two lanes would load them
    e = opaque(tl.arange(0, 2), ASM)[None, None, None, None, :]
    nth = 8 * t + e + (2 * j + 0 * (g + warp))[:, :, :, None, None]
    seen = (nth < TOKENS) & (warp == 0)[:, :, :, None, None]
    dim = tl.arange(0, DIMS)[None, :]
    token = tl.arange(0, OWN) % POWER
    if FINISH:
        at = tl.load(positions + text * TOKENS + nth, mask=seen, other=-1)
        own = tl.load(positions + text * TOKENS + token, mask=token < TOKENS, other=-1)
        k_own, k_other = turns(k_norm, rope, own, HEAD_DIM, DIMS, ROPE_DIM, QK_NORM)
    else:
        at, own = oldest + nth, oldest + token
        seen = seen & (at <= last)
        own = tl.where((token < TOKENS) & (own <= last), own, -1)
    at = tl.where(seen & (at >= 0), at, _NEVER)
    page = tl.multiple_of(tl.load(table + tl.maximum(own, 0) // PAGE, mask=own >= 0, other=0), 8)
    place_of = (page + tl.maximum(own, 0) % PAGE * HEAD_DIM)[:, None] + dim
    some = (own >= 0)[:, None] & (dim < HEAD_DIM)
    if PDL:
        gdc_wait()
    if FINISH:
        row, head = text * TOKENS + token, HEADS + kv + 0 * token
        k, partner = load_raw(q, bias, row, head, own >= 0, HEADS, KV_HEADS, HEAD_DIM, DIMS, ROPE_DIM, BIAS)
        v = load_values(q, bias, row, head + KV_HEADS, own >= 0, HEADS, KV_HEADS, HEAD_DIM, DIMS, BIAS)
    else:
        k = tl.load(keys + place_of, mask=some, other=0.0)
        v = tl.load(values + place_of, mask=some, other=0.0)
    queries = _lines_of_q(
        q, bias, q_own, q_other, line, line_at, eps, HEADS, KV_HEADS, HEAD_DIM, DIMS, FINISH, QK_NORM, BIAS, ROPE_DIM
    )
    if FINISH:
        k, v = finished(k, partner, k_own, k_other, eps, HEAD_DIM, QK_NORM), to_half(v)
        some = some & writes & (tl.arange(0, OWN) < POWER)[:, None]
        tl.store(keys + place_of, k, mask=some)
        tl.store(values + place_of, v, mask=some)
    k = tl.permute(_row_operand(k, W), (0, 2, 1))
    return k, _own_value_operand(v, W, EV), at, _row_operand(queries, W)


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
