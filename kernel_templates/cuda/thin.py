"""A product of a packed matrix with few tokens, which weights bound: tensor cores, weights from memory to registers.

A program has 16 * TILES rows; its warps share the columns, and so do SPLIT programs. Every load of weights that fits in
registers (AHEAD steps of a warp) is under way before the wait for the kernel that writes the tokens.
"""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import (
    NATURAL,
    THIN,
    column_at,
    decoded,
    fragment,
    gated,
    last_one,
    load_rows,
    together,
    unlift,
    width,
)  # fmt: skip
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.weights import Planes


@triton.jit
def load_tiles(
    w0, w1, w2, w3, q, rows, u, end,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, GATE: tl.constexpr, ORDER: tl.constexpr,
    STREAM: tl.constexpr,
):  # fmt: skip
    """Rows g and g + 8 of each of TILES tiles; q: the place of the first tile's row g; with a gate every other tile is
    the one before, in the matrix below."""
    held = ()
    for t in tl.static_range(2 * TILES):
        row = column_at(q + (8 * t if GATE == "" else t // 4 * 16 + t % 2 * 8), ORDER)
        inside = (u < end) & (row < rows)
        if GATE != "" and t // 2 % 2 == 1:
            row += rows
        held = held + (load_rows(w0, w1, w2, w3, row, u, inside, TRAITS, COLS, STREAM),)
    return held


@triton.jit
def load_right(
    x, token, tokens, u, end, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, NT: tl.constexpr
):
    """float16 [WARPS, 32, 8] for each word of a run and each 8 tokens: of runs u the columns of the word."""
    WARPS: tl.constexpr = u.shape[2]
    right = ()
    for w in tl.static_range(4):
        for n in tl.static_range(NT):
            have = ((u < end) & (token + 8 * n < tokens))[:, :, :, None]
            base = (token + 8 * n) * WIDTH
            e = tl.arange(0, 8)[None, None, None, :]
            if ORDER == 0:
                v = tl.load(x + (base + u * 32)[:, :, :, None] + (8 * w + e), mask=have, other=0.0)
                v = tl.permute(tl.reshape(v, [4, 8, WARPS, 2, 2, 2]), [2, 5, 0, 3, 4, 1])  # j g warp h e p
            else:
                v = tl.load(x + (base + u // 4 * 128 + u % 4 * 8)[:, :, :, None] + (32 * w + e), mask=have, other=0.0)
                v = tl.permute(tl.reshape(v, [4, 8, WARPS, 2, 2, 2]), [2, 4, 0, 3, 5, 1])  # j g warp h p e
            right = right + (tl.reshape(v, [WARPS, 32, 8]),)
    return right


@triton.jit(do_not_specialize=["tokens"])
def thin(
    w0, w1, w2, w3, x, out, partial, counters, rows, tokens,
    TRAITS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, TOKENS: tl.constexpr,
    TILES: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr,
    GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, STREAM: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """out = x [tokens, WIDTH] float16, in ORDER, times W transposed: float32 [tokens, rows]; or with a GATE, where W
    has `rows` rows of the gate and below them those of what it gates, float16 [tokens, OUT_WIDTH] in OUT_ORDER.

    partial: float32 [programs, SPLIT, 16 * TILES * TOKENS]; counters: int32 [programs], zeros. STEPS: how often 128
    columns a warp are taken, a multiple of AHEAD. TOKENS: a multiple of 8, no less than `tokens`.
    """
    NT: tl.constexpr = TOKENS // 8
    BLOCK: tl.constexpr = 16 * TILES if GATE == "" else 8 * TILES
    program, split = tl.program_id(0), tl.program_id(1)
    if PDL:
        gdc_launch_dependents()
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    q = program * BLOCK + g
    RUNS: tl.constexpr = COLS // 32
    FOURS: tl.constexpr = (RUNS + 3) // 4
    u = split * FOURS // SPLIT * 4 + (warp * 4 + j)
    end = tl.minimum((split + 1) * FOURS // SPLIT * 4, RUNS)
    held = ()
    for a in tl.static_range(AHEAD):
        held = held + (
            load_tiles(
                w0, w1, w2, w3, q, rows, u + a * WARPS * 4, end, TRAITS, COLS, TILES, GATE, OUT_ORDER, STREAM
            ),
        )  # fmt: skip
    if PDL:
        gdc_wait()
    acc = ()
    for _i in tl.static_range(TILES * NT):
        acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
    right = load_right(x, g, tokens, u, end, COLS, WIDTH, ORDER, NT)
    for step in tl.range(0, STEPS, AHEAD, num_stages=1):
        next_held = ()
        for a in tl.static_range(AHEAD):
            here = u + (step + a) * WARPS * 4
            if STEPS == AHEAD and a == AHEAD - 1:
                next_right = right
            else:
                next_right = load_right(x, g, tokens, here + WARPS * 4, end, COLS, WIDTH, ORDER, NT)
            parts = ()
            for t in tl.static_range(2 * TILES):
                parts = parts + (decoded(held[a][t], TRAITS, ASM),)
            if STEPS == AHEAD:
                next_held = next_held + (held[a],)
            else:
                next_held = next_held + (
                    load_tiles(
                        w0, w1, w2, w3, q, rows, here + AHEAD * WARPS * 4, end,
                        TRAITS, COLS, TILES, GATE, OUT_ORDER, STREAM,
                    ),
                )  # fmt: skip
            for w in tl.static_range(4):
                new_acc = ()
                for t in tl.static_range(TILES):
                    left = tl.join(
                        fragment(parts[2 * t], w, TRAITS, ASM), fragment(parts[2 * t + 1], w, TRAITS, ASM)
                    )  # j, g, warp, e, p, h, row half
                    left = tl.reshape(tl.permute(left, [2, 6, 1, 4, 0, 5, 3]), [WARPS, 16, 32])
                    for n in tl.static_range(NT):
                        new_acc = new_acc + (tl.dot(left, right[w * NT + n], acc[t * NT + n]),)
                acc = new_acc
            right = next_right
        held = next_held
    POWER: tl.constexpr = 1 if TILES == 1 else 2 if TILES == 2 else 4 if TILES <= 4 else 8
    for _i in tl.static_range((POWER - TILES) * NT):
        acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
    MANY: tl.constexpr = POWER * NT
    total = tl.sum(tl.reshape(together(acc), [WARPS, 16, 8, MANY]), 0) * unlift(TRAITS)
    if SPLIT == 1:
        finish(total, out, program, rows, tokens, TOKENS, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM)
    else:
        SIZE: tl.constexpr = 16 * TILES * TOKENS
        tile, row, token = elements(NT, MANY)
        at = partial + program * (SPLIT * SIZE) + (tile * (16 * TOKENS) + row * TOKENS + token)
        mine, _ = tl.broadcast(tile < TILES, total)
        tl.store(at + split * SIZE, total, mask=mine)
        if last_one(counters, program, SPLIT):
            whole = tl.load(at, mask=mine, other=0.0, cache_modifier=".cg")
            for s in tl.static_range(1, SPLIT):
                whole += tl.load(at + s * SIZE, mask=mine, other=0.0, cache_modifier=".cg")
            finish(whole, out, program, rows, tokens, TOKENS, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM)


@triton.jit
def elements(NT: tl.constexpr, MANY: tl.constexpr):
    """Tile, row and token of each element [16, 8, MANY] of results, MANY being tiles times NT."""
    i = tl.arange(0, MANY)[None, None, :]
    return i // NT, tl.arange(0, 16)[:, None, None], tl.arange(0, 8)[None, :, None] + i % NT * 8


@triton.jit
def finish(
    total, out, program, rows, tokens,
    TOKENS: tl.constexpr, TILES: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Store results [16, 8, tiles * tokens / 8]."""
    NT: tl.constexpr = TOKENS // 8
    MANY: tl.constexpr = total.shape[2]
    if GATE == "":
        tile, row, token = elements(NT, MANY)
        at = program * (16 * TILES) + (tile * 16 + row)
        tl.store(out + token * OUT_WIDTH + at, total, mask=(at < rows) & (token < tokens) & (tile < TILES))
    else:
        PAIRS: tl.constexpr = MANY // NT // 2
        z, up = tl.split(tl.permute(tl.reshape(total, [16, 8, PAIRS, 2, NT]), [0, 1, 2, 4, 3]))
        y = gated(tl.reshape(z, [16, 8, PAIRS * NT]), tl.reshape(up, [16, 8, PAIRS * NT]), GATE, ASM)
        tile, row, token = elements(NT, PAIRS * NT)
        at = program * (8 * TILES) + (tile * 16 + row)
        keep = (column_at(at, OUT_ORDER) < rows) & (token < tokens) & (tile < TILES // 2)
        tl.store(out + token * OUT_WIDTH + at, y, mask=keep)


def programs(rows: int, tiles: int, gate: str, out_order: int = NATURAL) -> int:
    """Programs side by side; rows: of y."""
    return -(-width(rows, out_order) // (8 * tiles if gate else 16 * tiles))


def launch(
    planes: Planes, x: torch.Tensor, y: torch.Tensor, scratch: torch.Tensor, counters: torch.Tensor, *,
    tokens: int, order: int = THIN, gate: str = "", out_order: int = NATURAL,
    tiles: int, warps: int, ahead: int, split: int = 1,
) -> Launch:  # fmt: skip
    """y = x times the matrix transposed, of up to 32 tokens: see `thin`. order: of x, `NATURAL` or `THIN`.

    scratch: float32, `scratch_size` elements, only read where split > 1; counters: int32 zeros, one for each of
    `programs`, or more.
    """
    rows = planes.rows // 2 if gate else planes.rows
    share = triton.cdiv(triton.cdiv(planes.cols, 128), split)
    steps = triton.cdiv(share, warps)
    ahead = min(ahead, steps)
    return Launch(
        name="thin",
        kernel=thin,
        grid=(programs(rows, tiles, gate, out_order), split),
        arguments=(*planes.pointers, x, y, scratch, counters, rows, tokens),
        constants={
            "TRAITS": planes.traits, "COLS": planes.cols, "WIDTH": width(planes.cols, order), "ORDER": order,
            "TOKENS": bucket(tokens), "TILES": tiles, "WARPS": warps, "STEPS": triton.cdiv(steps, ahead) * ahead,
            "SPLIT": split, "AHEAD": ahead, "GATE": gate, "OUT_WIDTH": y.stride(0),
            "OUT_ORDER": out_order, "STREAM": True,
        },
        warps=warps,
    )  # fmt: skip


def bucket(tokens: int) -> int:
    """The power of two, at least 8, that tokens are taken for."""
    return max(8, 1 << (tokens - 1).bit_length())


def scratch_size(planes: Planes, tokens: int, gate: str, tiles: int, split: int) -> int:
    """float32 elements of scratch."""
    rows = planes.rows // 2 if gate else planes.rows
    return programs(rows, tiles, gate, THIN) * split * 16 * tiles * bucket(tokens) if split > 1 else 1
