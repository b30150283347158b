"""The kernels of attention over many rows: tiles of queries times tiles of keys on the tensor cores.

    out = sum_p e^(s_p) v_p / sum_p e^(s_p),  s_p = SCALE q . k_p, or SOFTCAP tanh(SCALE q . k_p / SOFTCAP),
    with a sink of each head: the sum of weights plus e^sink

A program has ROWS rows of the matrix product: BLOCK consecutive tokens of one text, and of each all query heads that
share one key head, as far as there is room. So a tile of keys is read once for all of them, and rows of one program
differ little in what they see. It walks its positions tile by tile with an online softmax (Milakov and Gimelshein 2018;
Dao et al. 2022) in float32, in units of log 2; weights are float16 for the second product. Tiles that every row sees
whole are not masked.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import NEVER, UNSEEN, capped, inner_factor, outer_factor, sink_weight
from kernel_templates.cuda.fragments import last_one, place
from kernel_templates.cuda.instructions import loop_bound, to_half
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantized_cache import LARGEST, to_halves

LOWEST = tl.constexpr(-1.0e30)  # what a maximum begins with: finite, so that the difference of two is 0 and no NaN
TINY = tl.constexpr(1.0e-30)  # less than any sum of weights but that of none


@triton.jit
def _pages(table, tile, last, TILE: tl.constexpr, PAGE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where the pages of a tile begin, elements: int64, one, or [TILE, 1] where a tile has several; multiples of
    ALIGNED.

    A tile past `last` gives its page again: what nothing uses yet is not read."""
    if TILE <= PAGE:
        position = tl.maximum(tl.minimum(tile * TILE, last), 0)
        return tl.multiple_of(tl.load(table + position // PAGE), ALIGNED)
    else:
        position = tl.maximum(tl.minimum(tile * TILE + tl.arange(0, TILE), last), 0)
        return tl.multiple_of(tl.load(table + position // PAGE), ALIGNED)[:, None]


@triton.jit
def _weigh(
    s, at, p, m, total,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, MASKED: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A step of the softmax: weights float32 of scores s [rows, positions `at`], what earlier ones are multiplied with,
    and m and total as they are then."""
    INSIDE: tl.constexpr = inner_factor(SCALE, SOFTCAP)
    OUTSIDE: tl.constexpr = outer_factor(SCALE, SOFTCAP)
    if SOFTCAP > 0:
        s = capped(s * INSIDE, SOFTCAP, ASM)
    if MASKED:
        seen = at[None, :] <= p[:, None]
        if WINDOW > 0:
            seen = seen & (at[None, :] > p[:, None] - WINDOW)
        s = tl.where(seen, s, UNSEEN)
    top = tl.maximum(m, tl.max(s, 1) * OUTSIDE)
    share = tl.exp2(m - top)
    weights = tl.exp2(s * OUTSIDE - top[:, None])
    return weights, share, top, total * share + tl.sum(weights, 1)


@triton.jit
def _attend_tiles(
    q, acc, m, total, p, keys, values, k_scales, v_scales, table, begin, end, first, last,
    HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, TILE: tl.constexpr, PAGE: tl.constexpr, STAGES: tl.constexpr,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, PER_SCALE: tl.constexpr, MASKED: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Tiles begin..end - 1 for all rows: acc [ROWS, DIMS], m, total [ROWS] as they are afterwards.

    p: positions of the rows, [ROWS]; first, last: what the rows together see in the pages. k_scales, v_scales: of keys
    and values that are int8, else None; acc is LARGEST times outputs then.
    """
    n = tl.arange(0, TILE)
    dim = tl.arange(0, DIMS)[None, :]
    real = dim < HEAD_DIM
    ALIGNED: tl.constexpr = 8 if k_scales is None else 16
    page = _pages(table, begin, last, TILE, PAGE, ALIGNED)
    for tile in tl.range(loop_bound(begin, ASM), loop_bound(end, ASM), num_stages=STAGES):
        next_page = _pages(table, tile + 1, last, TILE, PAGE, ALIGNED)  # before the tile that has to wait for it
        at = tile * TILE + n
        row = (tile * TILE) % PAGE + n if TILE <= PAGE else n % PAGE
        offsets = row[:, None] * HEAD_DIM + dim
        kept = tl.broadcast_to(real, (TILE, DIMS))
        if MASKED:
            there = (at >= first) & (at <= last)
            kept = kept & there[:, None]
            at = tl.where(at <= last, at, NEVER)  # a row may see more than is in the pages
        if MASKED or DIMS != HEAD_DIM:
            k = tl.load(keys + page + offsets, mask=kept, other=0.0)
        else:
            k = tl.load(keys + page + offsets)
        if k_scales is not None:
            of_tile = (page if TILE <= PAGE else tl.reshape(page, [TILE])) // PER_SCALE + row
            if MASKED:
                k_scale = tl.load(k_scales + of_tile, mask=there, other=0.0)
                v_scale = tl.load(v_scales + of_tile, mask=there, other=0.0)
            else:
                k_scale, v_scale = tl.load(k_scales + of_tile), tl.load(v_scales + of_tile)
            s = tl.dot(q, tl.trans(to_halves(k, ASM))) * k_scale[None, :]
        else:
            s = tl.dot(q, tl.trans(k))
        weights, share, m, total = _weigh(s, at, p, m, total, WINDOW, SCALE, SOFTCAP, MASKED, ASM)
        if MASKED or DIMS != HEAD_DIM:
            v = tl.load(values + page + offsets, mask=kept, other=0.0)
        else:
            v = tl.load(values + page + offsets)
        if v_scales is not None:
            weights *= (v_scale * LARGEST)[None, :]
            v = to_halves(v, ASM)
        acc = tl.dot(weights.to(tl.float16), v, acc * share[:, None])
        page = next_page
    return acc, m, total


@triton.jit
def _lines(
    column, block, COUNT: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Of rows 0..COUNT - 1 of a program's products: whether there is such a row, the row of the pass, and its line,
    row * HEADS + query head. Blocks of a text come last first: those that see most begin, the others fill gaps."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    PARTS: tl.constexpr = (GROUP + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    r = tl.arange(0, COUNT)
    token = (BLOCKS - 1 - block % BLOCKS) * BLOCK + r // TOGETHER
    group = column % PARTS * TOGETHER + r % TOGETHER
    there = (r < BLOCK * TOGETHER) & (token < TOKENS) & (group < GROUP)
    row = block // BLOCKS * TOKENS + token
    return there, row, row * HEADS + column // PARTS * GROUP + group


@triton.jit
def attend_pages(
    q, cache, table, positions, sequences, out, partial, counters, sinks, layer, values, head_stride, pages, lines,
    scales, scale_layer,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr, TILE: tl.constexpr, PAGE: tl.constexpr,
    STAGES: tl.constexpr, SPLITS: tl.constexpr, LAST_JOINS: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr,
    APART: tl.constexpr, WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, WIDTH: tl.constexpr,
    PER_SCALE: tl.constexpr,
    ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (TOGETHER heads of one key head, BLOCK tokens of one text, split of what they see).

    q: float16 [rows, HEADS, HEAD_DIM]; sinks: float32 [HEADS], or None. LINES: TOGETHER * BLOCK or the next power of
    two.

    layer: where this layer lies in a page, elements; values, head_stride, scales, scale_layer, PER_SCALE: see `pages`;
    pages: of a text in the table; lines: heads of all rows. With splits, partial takes what each leaves: float32
    [rows, HEADS, SPLITS, HEAD_DIM], then [rows, HEADS, SPLITS] logarithms of the sums of weights, LOWEST of none.
    LAST_JOINS: the last of a program's splits to end reads them, RUN at once; counters: int32, zeros before and
    after, for each program of a split.
    """
    if PDL:
        gdc_launch_dependents()
    PARTS: tl.constexpr = (HEADS // KV_HEADS + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    column, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv = column // PARTS
    text = block // BLOCKS
    there, row, line = _lines(column, block, ROWS, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
    dim = tl.arange(0, DIMS)[None, :]
    mask = there[:, None] & (dim < HEAD_DIM)
    if PDL:
        gdc_wait()

    p = tl.load(positions + row, mask=there, other=-1)
    table += tl.load(sequences + text * TOKENS) * pages
    last = tl.max(p, 0)
    lowest = tl.min(tl.where(p >= 0, p, NEVER), 0)
    first = tl.maximum(lowest + 1 - WINDOW, 0) if WINDOW > 0 else 0
    keys = cache + layer + kv.to(tl.int64) * head_stride
    k_scales = None if scales is None else scales + scale_layer + kv.to(tl.int64) * (head_stride // HEAD_DIM)
    v_scales = None if scales is None else k_scales + values // HEAD_DIM
    acc = tl.zeros([ROWS, DIMS], tl.float32)
    m = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    queries = tl.load(q + line[:, None].to(tl.int64) * HEAD_DIM + dim, mask=mask, other=0.0)

    from_tile, to_tile = first // TILE, (last + TILE) // TILE
    tiles = tl.maximum(to_tile - from_tile, 0)
    span = tl.cdiv(tiles, SPLITS)
    begin = from_tile + split * span
    end = tl.minimum(begin + span, to_tile)
    if APART:
        # Whole tiles: none of their positions is after the first row's or before the last row's window.
        whole = tl.minimum(tl.maximum((tl.minimum(lowest, last) + 1) // TILE, begin), end)
        if WINDOW > 0:
            inside = tl.maximum((last + TILE - WINDOW) // TILE, 0)
            inside = tl.minimum(tl.maximum(inside, begin), end)
            whole = tl.maximum(whole, inside)
            acc, m, total = _attend_tiles(
                queries, acc, m, total, p, keys, keys + values, k_scales, v_scales, table, begin, inside, first, last,
                HEAD_DIM, DIMS, TILE, PAGE, STAGES, WINDOW, SCALE, SOFTCAP, PER_SCALE, True, ASM,
            )  # fmt: skip
        else:
            inside = begin
        acc, m, total = _attend_tiles(
            queries, acc, m, total, p, keys, keys + values, k_scales, v_scales, table, inside, whole, first, last,
            HEAD_DIM, DIMS, TILE, PAGE, STAGES, WINDOW, SCALE, SOFTCAP, PER_SCALE, False, ASM,
        )  # fmt: skip
    else:
        whole = begin
    acc, m, total = _attend_tiles(
        queries, acc, m, total, p, keys, keys + values, k_scales, v_scales, table, whole, end, first, last,
        HEAD_DIM, DIMS, TILE, PAGE, STAGES, WINDOW, SCALE, SOFTCAP, PER_SCALE, True, ASM,
    )  # fmt: skip

    if scales is not None:
        acc *= 1.0 / LARGEST
    y = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    used = tl.maximum(tl.cdiv(tiles, tl.maximum(span, 1)), 1)  # splits that have anything
    alone = used == 1 if LAST_JOINS else SPLITS == 1
    if alone:
        if sinks is not None:
            sink = tl.load(sinks + line % HEADS, mask=there, other=0.0)
            y *= (total / tl.maximum(total + sink_weight(sink, m), TINY))[:, None]
        store_rows(out, line, y, mask & (split == 0), HEAD_DIM, HEADS, WIDTH, ORDER)
    elif split < used or not LAST_JOINS:
        part = line * SPLITS + split
        tl.store(partial + part[:, None].to(tl.int64) * HEAD_DIM + dim, y, mask=mask & (split < used))
        log = tl.where(total > 0, m + tl.log2(tl.where(total > 0, total, 1.0)), LOWEST)
        tl.store(partial + lines * SPLITS * HEAD_DIM + part, log, mask=there)
        if LAST_JOINS:  # noqa: SIM102 - of `and`, Triton would compile the other side too
            if last_one(counters, block * tl.num_programs(0) + column, used):
                exists, _row, joined = _lines(column, block, LINES, TOKENS, HEADS, KV_HEADS, BLOCK, TOGETHER)
                whole_y = _join(partial, joined, exists, used, lines, sinks, HEADS, HEAD_DIM, DIMS, SPLITS, RUN, ASM)
                store_rows(out, joined, whole_y, exists[:, None] & (dim < HEAD_DIM), HEAD_DIM, HEADS, WIDTH, ORDER)


@triton.jit
def _join(
    partial, line, there, used, lines, sinks,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, SPLITS: tl.constexpr, RUN: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """float32 [lines of a program, DIMS] from the parts that `used` splits have left, RUN of them at a time, in an
    order that does not depend on who came when. Read past the first-level cache, which others' stores do not reach."""
    dim = tl.arange(0, DIMS)[None, None, :]
    line, there = line.to(tl.int64)[None, :, None], there[None, :, None]
    m = tl.full([1, line.shape[1], 1], LOWEST, tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    acc = tl.zeros([1, line.shape[1], DIMS], tl.float32)
    for step in tl.range(loop_bound(0 * used, ASM), loop_bound(tl.cdiv(used, RUN), ASM), num_stages=1):
        split = step * RUN + tl.arange(0, RUN)[:, None, None]
        part, have = line * SPLITS + split, there & (split < used)
        logs = partial + lines * SPLITS * HEAD_DIM + part
        log = tl.load(logs, mask=have, other=LOWEST, cache_modifier=".cg")
        y = tl.load(partial + part * HEAD_DIM + dim, mask=have & (dim < HEAD_DIM), other=0.0, cache_modifier=".cg")
        top = tl.maximum(m, tl.max(log, 0, keep_dims=True))
        kept, new = tl.exp2(m - top), tl.where(have, tl.exp2(log - top), 0.0)
        total = total * kept + tl.sum(new, 0, keep_dims=True)
        acc = acc * kept + tl.sum(y * new, 0, keep_dims=True)
        m = top
    if sinks is not None:
        total += sink_weight(tl.load(sinks + line % HEADS), m)
    y = acc * (1.0 / tl.where(total > 0, total, 1.0))
    return tl.reshape(y, [y.shape[1], DIMS])


@triton.jit
def store_rows(
    out, line, y, mask, HEAD_DIM: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr
):
    """float16 [rows, WIDTH], a row's heads one after the other, columns in ORDER; clamped, since rounded weights may
    add up to a little more than 1."""
    y = to_half(y)
    dim = tl.arange(0, y.shape[1])[None, :]
    column = line[:, None] % HEADS * HEAD_DIM + dim
    tl.store(out + (line // HEADS)[:, None].to(tl.int64) * WIDTH + place(column, ORDER), y, mask=mask)


@triton.jit
def combine_pages(
    partial, out, sinks, lines, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    ORDER: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (line: a head of a row): join the splits that `attend_pages` left."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    line = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    dim = tl.arange(0, DIMS)[None, :]
    log = tl.load(partial + lines * SPLITS * HEAD_DIM + line * SPLITS + split)
    some = log > 0.5 * LOWEST
    at = (line * SPLITS + split)[:, None] * HEAD_DIM + dim
    y = tl.load(partial + at, mask=some[:, None] & (dim < HEAD_DIM), other=0.0)
    weight = tl.where(some, tl.exp2(log - tl.max(log, 0)), 0.0)
    total = tl.sum(weight, 0)
    if sinks is not None:
        total += sink_weight(tl.load(sinks + line % HEADS), tl.max(log, 0))
    y = tl.sum(y * weight[:, None], 0)[None, :] * (1.0 / tl.where(total > 0, total, 1.0))
    store_rows(out, line + tl.zeros([1], tl.int32), y, dim < HEAD_DIM, HEAD_DIM, HEADS, WIDTH, ORDER)
