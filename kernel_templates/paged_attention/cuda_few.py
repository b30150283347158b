"""Attention over few rows of a text: keys and values from memory to the registers that tensor cores take them from.

What counts with few rows is the path from the previous kernel's end to this one's. Positions, the table and the pages
of earlier passes are older than every kernel of this pass that may still run (`model.cuda.sequences` sees to it), so a
program loads its first tile before it waits. Warps have positions of their own (`attention.operands`): nothing
goes from one to another but queries, before, and outputs, at the end. The pass's own rows are a split of their own,
which finishes their keys and values while the others wait for no more than their queries: nobody reads from the pages
what is written there.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.operands import of_keys, of_own_values, of_rows, of_values, settle, step
from kernel_templates.attention.scores import NEVER
from kernel_templates.cuda.fragments import last_one
from kernel_templates.cuda.instructions import loop_bound, opaque, to_half
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.paged_attention.cuda_kernel import LOWEST
from kernel_templates.paged_attention.own_rows import finished, load_raw, load_values, turns
from kernel_templates.paged_attention.parts import join_parts, line_of, shares, store_lines


@triton.jit
def _tile(
    keys, values, table, base, first, cached, j, g, warp,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, T: tl.constexpr, C: tl.constexpr, CC: tl.constexpr, EV: tl.constexpr,
):  # fmt: skip
    """Operands of keys and values of positions from `base` on, zeros outside first..cached, and the positions."""
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
        k_entry = tl.maximum(tl.minimum(kp, cached), 0) // PAGE
        v_entry = tl.maximum(tl.minimum(vp, cached), 0) // PAGE
        k_page = tl.multiple_of(tl.load(table + k_entry), (8, 8, 8, 8))
        v_page = tl.multiple_of(tl.load(table + v_entry), (8, 8, 8, 8, 8))
    # What is known when compiling is added last: so it is part of the instruction.
    kd = 32 * tl.arange(0, C)[None, None, None, None, :, None] + tl.arange(0, 8)[None, None, None, None, None, :]
    vd = 8 * EV * tl.arange(0, CC)[None, None, None, None, None, :, None]
    vd = vd + tl.arange(0, EV)[None, None, None, None, None, None, :]
    k_some = ((kp >= first) & (kp <= cached))[:, :, :, :, None, None]
    v_some = ((vp >= first) & (vp <= cached))[:, :, :, :, :, None, None]
    if 32 * C != HEAD_DIM:
        k_some = k_some & (kd + 8 * j[:, :, :, None, None, None] < HEAD_DIM)
        v_some = v_some & (vd + EV * g[:, :, :, None, None, None, None] < HEAD_DIM)
    k_from = keys + (k_page + (kp % PAGE) * HEAD_DIM + (8 * j)[:, :, :, None])
    v_from = values + (v_page + (vp % PAGE) * HEAD_DIM + (EV * g)[:, :, :, None, None])
    k = tl.load(k_from[:, :, :, :, None, None] + kd, mask=k_some, other=0.0)
    v = tl.load(v_from[:, :, :, :, :, None, None] + vd, mask=v_some, other=0.0)
    return of_keys(k, False), of_values(v, False), tl.where(vp <= cached, vp, NEVER)


@triton.jit
def _queries(
    q, bias, own, other, line, at, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, FINISH: tl.constexpr,
    QK_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr,
):  # fmt: skip
    """float16 [n, DIMS] of lines [n]; zeros where a line's position `at` is -1. own, other: `turns` of positions."""
    if FINISH:
        row, head = line // HEADS, line % HEADS
        x, partner = load_raw(q, bias, row, head, at >= 0, HEADS, KV_HEADS, HEAD_DIM, DIMS, ROPE_DIM, BIAS)
        return finished(x, partner, own, other, eps, HEAD_DIM, QK_NORM)
    else:
        dim = tl.arange(0, DIMS)[None, :]
        mask = (at >= 0)[:, None] & (dim < HEAD_DIM)
        return tl.load(q + line[:, None].to(tl.int64) * HEAD_DIM + dim, mask=mask, other=0.0)


@triton.jit
def _own_rows(
    q, bias, q_own, q_other, line, line_at, keys, values, table, positions, k_norm, rope, eps, text, kv, oldest, last,
    writes, j, g, warp,
    TOKENS: tl.constexpr, POWER: tl.constexpr, OWN: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, PAGE: tl.constexpr, EV: tl.constexpr, FINISH: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """After the wait for the kernel in front, operands of queries and of the pass's own keys and values, a tile of 16
    positions that the first warp sees, and the positions.

    writes: whether finished ones go into the pages. POWER: TOKENS or the next power of two; OWN: rows that are loaded,
    so many that each warp has a whole one, the same again and again.
    """
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
    else:  # rows may be at one position: what is there counts once
        at, own = oldest + nth, oldest + token
        seen = seen & (at <= last)
        own = tl.where((token < TOKENS) & (own <= last), own, -1)
    at = tl.where(seen & (at >= 0), at, NEVER)
    page = tl.multiple_of(tl.load(table + tl.maximum(own, 0) // PAGE, mask=own >= 0, other=0), 8)
    place_of = (page + tl.maximum(own, 0) % PAGE * HEAD_DIM)[:, None] + dim
    some = (own >= 0)[:, None] & (dim < HEAD_DIM)
    if PDL:
        gdc_wait()
    if FINISH:
        row, head = text * TOKENS + token, HEADS + kv + 0 * token
        k, partner = load_raw(q, bias, row, head, own >= 0, HEADS, KV_HEADS, HEAD_DIM, DIMS, ROPE_DIM, BIAS)
        v = load_values(q, bias, row, head + KV_HEADS, own >= 0, eps, HEADS, KV_HEADS, HEAD_DIM, DIMS, BIAS, V_NORM)
    else:
        k = tl.load(keys + place_of, mask=some, other=0.0)
        v = tl.load(values + place_of, mask=some, other=0.0)
    queries = _queries(
        q, bias, q_own, q_other, line, line_at, eps, HEADS, KV_HEADS, HEAD_DIM, DIMS, FINISH, QK_NORM, BIAS, ROPE_DIM
    )
    if FINISH:
        k, v = finished(k, partner, k_own, k_other, eps, HEAD_DIM, QK_NORM), to_half(v)
        some = some & writes & (tl.arange(0, OWN) < POWER)[:, None]
        tl.store(keys + place_of, k, mask=some)
        tl.store(values + place_of, v, mask=some)
    return of_rows(queries, W, 8, False), tl.permute(of_rows(k, W, 8, False), (0, 2, 1)), of_own_values(v, W, EV), at


@triton.jit
def attend_few(
    q, cache, table, positions, sequences, out, partial, counters, sinks, bias, q_norm, k_norm, rope, eps,
    layer, values, head_stride, pages, lines,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    BLOCK: tl.constexpr, TOGETHER: tl.constexpr, TILE: tl.constexpr, WARPS: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, LAST_JOINS: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, EACH: tl.constexpr,
    FINISH: tl.constexpr, QK_NORM: tl.constexpr, V_NORM: tl.constexpr, BIAS: tl.constexpr, ROPE_DIM: tl.constexpr,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (TOGETHER heads of one key head, BLOCK tokens of one text, 8 lines at most; split of `parts.shares`).

    FINISH: q is raw heads as `own_rows` has them; else float16 [rows, HEADS, HEAD_DIM], the rows' own keys and values
    are in the pages when the kernel in front has ended, and bias, norms, rope and eps are nothing. Other arguments as
    of `cuda_kernel.attend_pages`. TOKENS: 8 at most; DIMS: 32 at least; LINES: TOGETHER * BLOCK or the next power of
    two; RUN, EACH: parts, and their neighbouring elements, that a thread of the program that joins them reads at once.
    """
    if PDL:
        gdc_launch_dependents()
    GROUP: tl.constexpr = HEADS // KV_HEADS
    PARTS: tl.constexpr = (GROUP + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    T: tl.constexpr = TILE // WARPS // 8
    C: tl.constexpr = DIMS // 32
    EV: tl.constexpr = 8 if DIMS >= 64 else 4
    CC: tl.constexpr = DIMS // 8 // EV
    POWER: tl.constexpr = triton.next_power_of_2(TOKENS)
    OWN: tl.constexpr = max(POWER, min(WARPS, 8))
    AGAIN: tl.constexpr = max(LINES, min(WARPS, 8))  # lines, again and again, so that each warp has a whole one
    column, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv, text = column // PARTS, block // BLOCKS
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    every = 0 * (j + g + warp)

    # Written before this pass began.
    oldest, last, first, from_tile, tiles, span, used = shares(positions, text, TOKENS, TILE, SPLITS, WINDOW)
    table += tl.load(sequences + text * TOKENS) * pages
    mine, there = line_of(column, block, g + every, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    p = tl.load(positions + mine // HEADS, mask=there, other=-1)
    sink = None if sinks is None else tl.load(sinks + mine % HEADS, mask=there, other=0.0)
    own = split == SPLITS - 1  # last: the others have something to load while the kernel in front still runs
    if split >= used - 1 and not own:
        return
    cached = tl.minimum(oldest - 1, last)  # the last position that is older than the pass
    begin = from_tile + split * span
    end = tl.minimum(begin + span, from_tile + tiles)
    keys = cache + layer + kv.to(tl.int64) * head_stride
    m = tl.full([1, 8, WARPS], LOWEST, tl.float32)
    total = tl.zeros([1, 8, WARPS], tl.float32)
    acc = tl.zeros([4, 8, WARPS, CC, 2, EV], tl.float32)
    line, lined = line_of(column, block, tl.arange(0, AGAIN) % LINES, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    line_at = tl.load(positions + line // HEADS, mask=lined, other=-1)
    q_own, q_other = line_at, line_at
    if FINISH:
        q_own, q_other = turns(q_norm, rope, line_at, HEAD_DIM, DIMS, ROPE_DIM, QK_NORM)
    if own:
        own_q, own_k, own_v, own_at = _own_rows(
            q, bias, q_own, q_other, line, line_at, keys, keys + values, table, positions, k_norm, rope, eps, text, kv,
            oldest, last, (block % BLOCKS == 0) & (column % PARTS == 0), j, g, warp,
            TOKENS, POWER, OWN, HEADS, KV_HEADS, HEAD_DIM, DIMS, PAGE, EV, FINISH, QK_NORM, V_NORM, BIAS, ROPE_DIM,
            PDL, ASM,
        )  # fmt: skip
        m, total, acc = step(own_q, own_k, own_v, None, None, own_at, p, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM)
    else:
        k, v, at = _tile(
            keys, keys + values, table, begin * TILE, first, cached, j, g, warp, HEAD_DIM, PAGE, T, C, CC, EV
        )
        if PDL:
            gdc_wait()
        queries = _queries(
            q, bias, q_own, q_other, line, line_at, eps,
            HEADS, KV_HEADS, HEAD_DIM, DIMS, FINISH, QK_NORM, BIAS, ROPE_DIM,
        )  # fmt: skip
        queries = of_rows(queries, WARPS, 8, False)
        for tile in tl.range(loop_bound(begin, ASM), loop_bound(end, ASM), num_stages=1):
            m, total, acc = step(queries, k, v, None, None, at, p, m, total, acc, WINDOW, SCALE, SOFTCAP, ASM)
            if tile + 1 < end:
                base = (tile + 1) * TILE
                k, v, at = _tile(
                    keys, keys + values, table, base, first, cached, j, g, warp, HEAD_DIM, PAGE, T, C, CC, EV
                )

    y, log = settle(m, total, acc, sink, used == 1, LOWEST)
    n = opaque(tl.arange(0, 8 * DIMS), ASM)  # one at a time, as they lie
    whose, has = line_of(column, block, n // DIMS, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    if used == 1:
        store_lines(out, whose, n % DIMS, y, has, HEADS, HEAD_DIM, WIDTH, ORDER)
    else:
        split = tl.minimum(split, used - 1)
        part = partial + (whose * SPLITS + split).to(tl.int64) * HEAD_DIM + n % DIMS
        tl.store(part, y, mask=has & (n % DIMS < HEAD_DIM))
        logs = partial + lines * SPLITS * HEAD_DIM + mine * SPLITS + split
        tl.store(logs, log + every, mask=there & (j == 0) & (warp == 0))
        if LAST_JOINS:  # noqa: SIM102 - of `and`, Triton would compile the other side too
            if last_one(counters, block * tl.num_programs(0) + column, used):
                to_join = tl.arange(0, LINES)[None, :, None]
                joined, exists = line_of(column, block, to_join, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
                element = tl.arange(0, DIMS // EACH)[:, None, None] * EACH + tl.arange(0, EACH)[None, None, :]
                whole = join_parts(
                    partial, joined, element, exists, used, lines, sinks, HEADS, HEAD_DIM, SPLITS, RUN, ASM
                )
                store_lines(out, joined, element, whole, exists, HEADS, HEAD_DIM, WIDTH, ORDER)
