"""Few rows: how programs share a text's positions, what each leaves, and how it becomes one.

The last split has the pass's own rows, the others tiles of the positions before them. Each leaves for its lines, in
float32, outputs [rows, HEADS, SPLITS, HEAD_DIM], without gaps between those that have any, and behind all of them the
logarithms of sums of weights [rows, HEADS, SPLITS].
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.attention.scores import NEVER, sink_weight
from kernel_templates.cuda.fragments import place
from kernel_templates.cuda.instructions import loop_bound, opaque, to_half
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.paged_attention.cuda_kernel import LOWEST


@triton.jit
def shares(
    positions, text, TOKENS: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr
):  # fmt: skip
    """(oldest, last, first, from_tile, tiles, span, used): the pass's first and last position of a text, NEVER and -1
    of none; the first position that any of its rows sees, and its tile; how many tiles there are before the pass, how
    many of a split, and how many splits have anything."""
    oldest, last = NEVER, -1
    for i in tl.static_range(TOKENS):
        position = tl.load(positions + text * TOKENS + i)
        oldest, last = tl.minimum(oldest, tl.where(position >= 0, position, NEVER)), tl.maximum(last, position)
    first = tl.maximum(oldest + 1 - WINDOW, 0) if WINDOW > 0 else 0
    from_tile = first // TILE
    tiles = tl.maximum((tl.minimum(oldest - 1, last) + TILE) // TILE - from_tile, 0)
    span = tl.cdiv(tiles, SPLITS - 1)
    return oldest, last, first, from_tile, tiles, span, tl.cdiv(tiles, tl.maximum(span, 1)) + 1


@triton.jit
def line_of(
    column, block, n, TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """Of lines n of a program: row * HEADS + query head, and whether there is such a line."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    PARTS: tl.constexpr = (GROUP + TOGETHER - 1) // TOGETHER
    BLOCKS: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    token = block % BLOCKS * BLOCK + n // TOGETHER
    head = column % PARTS * TOGETHER + n % TOGETHER
    there = (n < BLOCK * TOGETHER) & (token < TOKENS) & (head < GROUP)
    return (block // BLOCKS * TOKENS + token) * HEADS + column // PARTS * GROUP + head, there


@triton.jit
def store_lines(
    out, line, element, y, mask,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """Elements of lines to float16 [rows, WIDTH], columns in ORDER."""
    to = out + (line // HEADS).to(tl.int64) * WIDTH + place(line % HEADS * HEAD_DIM + element, ORDER)
    tl.store(to, to_half(y), mask=mask & (element < HEAD_DIM))


@triton.jit
def join_parts(
    partial, line, element, exists, used, lines, sinks,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr, RUN: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """float32 [X, LINES, EACH]: elements [X, 1, EACH] of lines [1, LINES, 1] from the parts that `used` splits have
    left, RUN of them at a time, all in one thread, in an order that does not depend on who came when. Read past the
    first-level cache, which others' stores do not reach."""
    X: tl.constexpr = element.shape[0]
    LINES: tl.constexpr = line.shape[1]
    EACH: tl.constexpr = element.shape[2]
    line, element, exists = line[:, :, None, :], element[:, :, None, :], exists[:, :, None, :]
    every = tl.zeros([X, LINES, RUN, 1], tl.int32)  # a logarithm for each thread, where it is needed
    m = tl.full([X, LINES, 1, 1], LOWEST, tl.float32)
    total = tl.zeros([X, LINES, 1, 1], tl.float32)
    acc = tl.zeros([X, LINES, 1, EACH], tl.float32)
    for turn in tl.range(loop_bound(0 * used, ASM), loop_bound(tl.cdiv(used, RUN), ASM), num_stages=1):
        split = turn * RUN + opaque(tl.arange(0, RUN), ASM)[None, None, :, None]
        have = exists & (split < used)
        part = line * SPLITS + split
        logs = partial + lines * SPLITS * HEAD_DIM + (part + every)
        log = tl.load(logs, mask=have, other=LOWEST, cache_modifier=".cg")
        at = part.to(tl.int64) * HEAD_DIM + element
        y = tl.load(partial + at, mask=have & (element < HEAD_DIM), other=0.0, cache_modifier=".cg")
        top = tl.maximum(m, tl.max(log, 2, keep_dims=True))
        kept, new = tl.exp2(m - top), tl.where(have, tl.exp2(log - top), 0.0)
        total = total * kept + tl.sum(new, 2, keep_dims=True)
        acc = acc * kept + tl.sum(y * new, 2, keep_dims=True)
        m = top
    if sinks is not None:
        total += sink_weight(tl.load(sinks + line % HEADS, mask=exists, other=0.0), m)
    y = acc * (1.0 / tl.where(total > 0, total, 1.0))
    return tl.reshape(y, [X, LINES, EACH])


@triton.jit
def join_few(
    partial, out, positions, sinks, lines,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, RUN: tl.constexpr, EACH: tl.constexpr, WINDOW: tl.constexpr, WIDTH: tl.constexpr,
    ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (line): join the splits that `attend_few` left, unless one had all."""
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    _oldest, _last, _first, _from, _tiles, _span, used = shares(
        positions, program // HEADS // TOKENS, TOKENS, TILE, SPLITS, WINDOW
    )
    if PDL:
        gdc_wait()
    if used > 1:
        line = tl.zeros([1, 1, 1], tl.int32) + program
        element = tl.arange(0, DIMS // EACH)[:, None, None] * EACH + tl.arange(0, EACH)[None, None, :]
        y = join_parts(partial, line, element, line >= 0, used, lines, sinks, HEADS, HEAD_DIM, SPLITS, RUN, ASM)
        store_lines(out, line, element, y, line >= 0, HEADS, HEAD_DIM, WIDTH, ORDER)
