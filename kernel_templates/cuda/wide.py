"""A product of a packed matrix with many tokens: weights decoded in registers, tokens through shared memory.

A program has 16 * WARPS * TILES rows and BT tokens; SPLIT programs share the columns. Weights are loaded AHEAD steps of
128 columns before they are needed, the first of them before the wait for the kernel that writes the tokens.
"""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import (
    NATURAL,
    decoded,
    fragment,
    gated,
    last_one,
    load_below,
    place,
    together,
    unlift,
)  # fmt: skip
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.weights import Planes


@triton.jit
def load_block(
    w0, w1, w2, w3, q, rows, below, u, end,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, M: tl.constexpr, GATE: tl.constexpr,
    STREAM: tl.constexpr, RUN: tl.constexpr = 0,
):  # fmt: skip
    """Rows g and g + 8 of each warp of TILES tiles of M rows, runs u + RUN; q: the first; with a gate every other tile
    is the one before, `below` rows further down."""
    held = ()
    for t in tl.static_range(2 * TILES):
        held = held + (
            load_below(
                w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, STREAM,
                (t // 2 if GATE == "" else t // 4) * M + t % 2 * 8, RUN, GATE != "" and t // 2 % 2 == 1,
            ),
        )  # fmt: skip
    return held


@triton.jit(do_not_specialize=["tokens"])
def wide(
    w0, w1, w2, w3, x, out, partial, counters, rows, tokens,
    TRAITS: tl.constexpr, COLS: tl.constexpr, BT: tl.constexpr, ACROSS: tl.constexpr, TILES: tl.constexpr,
    WARPS: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr,
    BAND: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, STREAM: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out = x [tokens, whole groups of 128] float16, in order `WIDE`, times W transposed: float32 [tokens, rows]; or
    with a GATE, where W has `rows` rows of the gate and below them those of what it gates, float16 [tokens, OUT_WIDTH]
    in OUT_ORDER.

    partial: float32 [programs, SPLIT, block]; counters: int32 [programs], zeros. PARTS: into how many a step's product
    is cut. ACROSS: blocks of tokens. BAND: how many blocks of rows take turns before tokens go on, so that both stay in
    the cache.
    """
    program, split = tl.program_id(0), tl.program_id(1)
    if ACROSS == 1:
        pr, pt = program, 0
    else:
        band = program // (BAND * ACROSS)
        high = tl.minimum(tl.num_programs(0) // ACROSS - band * BAND, BAND)
        pr = band * BAND + program % (BAND * ACROSS) % high
        pt = program % (BAND * ACROSS) // high
    if PDL:
        gdc_launch_dependents()
    multiply_wide(
        program, pr, pt, split, w0, w1, w2, w3, x, out, partial, counters, rows, rows, tokens, None, None, None,
        TRAITS, COLS, BT, TILES, WARPS, PARTS, AHEAD, STAGES, SPLIT, GATE, OUT_WIDTH, OUT_ORDER, STREAM, 1, PDL, ASM,
    )  # fmt: skip


@triton.jit
def multiply_wide(
    program, pr, pt, split, w0, w1, w2, w3, x, out, partial, counters, rows, below, tokens, pairs, gate_bias, up_bias,
    TRAITS: tl.constexpr, COLS: tl.constexpr, BT: tl.constexpr, TILES: tl.constexpr, WARPS: tl.constexpr,
    PARTS: tl.constexpr, AHEAD: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, GATE: tl.constexpr,
    OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, STREAM: tl.constexpr, USED: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """What a program of `wide` does, for block pr of rows and block pt of tokens; the rest as of
    `thin.multiply_thin`."""
    M: tl.constexpr = 16 * WARPS
    BLOCK: tl.constexpr = M * TILES if GATE == "" else M * TILES // 2
    FOURS: tl.constexpr = (COLS + 127) // 128
    WIDTH: tl.constexpr = FOURS * 128
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    q = opaque(pr * BLOCK + (warp * 16 + g), ASM)
    first = split * FOURS // SPLIT
    end = tl.minimum((split + 1) * FOURS // SPLIT * 4, COLS // 32)
    EACH: tl.constexpr = 4 // PARTS
    K: tl.constexpr = 32 * EACH
    held = ()
    for a in tl.static_range(AHEAD):
        u = opaque(j + warp * 0 + first * 4, ASM)
        held = held + (load_block(w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, TILES, M, GATE, STREAM, a * 4),)
    if PDL:
        gdc_wait()
    token = tl.minimum(pt * BT + tl.arange(0, BT), tokens - 1)[None, :]
    if pairs is not None:
        token = tl.load(pairs + token) // USED
    k = tl.arange(0, K)[:, None]
    acc = ()
    for _i in tl.static_range(TILES):
        acc = acc + (tl.zeros([M, BT], tl.float32),)
    # A number of steps known here: ptxas waits after every single product in a loop that might not be entered.
    SHARE: tl.constexpr = (FOURS + SPLIT - 1) // SPLIT
    for turn in tl.range(0, (SHARE + AHEAD - 1) // AHEAD, num_stages=STAGES):
        step = first + turn * AHEAD
        rights = ()
        for a in tl.static_range(AHEAD):
            base = tl.minimum(step + a, FOURS - 1) * 128
            for c in tl.static_range(PARTS):
                rights = rights + (tl.load(x + token * WIDTH + (base + c * K + k)),)
        next_held = ()
        u = opaque(j + warp * 0 + step * 4, ASM)
        for a in tl.static_range(AHEAD):
            parts = ()
            for t in tl.static_range(2 * TILES):
                parts = parts + (decoded(held[a][t], TRAITS, ASM),)
            next_held = next_held + (
                load_block(
                    w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, TILES, M, GATE, STREAM, (a + AHEAD) * 4
                ),
            )  # fmt: skip
            for c in tl.static_range(PARTS):
                new = ()
                for t in tl.static_range(TILES):
                    pieces = ()
                    for w in tl.static_range(c * EACH, (c + 1) * EACH):
                        pieces = pieces + (
                            tl.join(fragment(parts[2 * t], w, TRAITS, ASM), fragment(parts[2 * t + 1], w, TRAITS, ASM)),
                        )
                    left = tl.reshape(together(pieces), [4, 8, WARPS, 2, 2, 2, 2, EACH])  # j g warp h p e half word
                    left = tl.permute(left, [2, 6, 1, 7, 3, 4, 0, 5])
                    new = new + (tl.dot(tl.reshape(left, [M, K]), rights[a * PARTS + c], acc[t]),)
                acc = new
        held = next_held
    scaled = ()
    for t in tl.static_range(TILES):
        scaled = scaled + (acc[t] * unlift(TRAITS),)
    if SPLIT == 1:
        finish(
            scaled, out, pr * BLOCK, pt * BT, rows, tokens, pairs, gate_bias, up_bias, GATE, OUT_WIDTH, OUT_ORDER, ASM
        )
    else:
        ONE: tl.constexpr = M * BT
        at = partial + program * (SPLIT * TILES * ONE) + (tl.arange(0, M)[:, None] * BT + tl.arange(0, BT)[None, :])
        for t in tl.static_range(TILES):
            tl.store(at + (split * TILES + t) * ONE, scaled[t])
        if last_one(counters, program, SPLIT):
            whole = ()
            for t in tl.static_range(TILES):
                total = tl.load(at + t * ONE, cache_modifier=".cg")
                if ONE > 1024 * WARPS:  # loads of all shares at once would not fit in registers
                    for s in tl.range(1, SPLIT, num_stages=1):
                        total += tl.load(at + (s * TILES + t) * ONE, cache_modifier=".cg")
                else:
                    for s in tl.static_range(1, SPLIT):
                        total += tl.load(at + (s * TILES + t) * ONE, cache_modifier=".cg")
                whole = whole + (total,)
            finish(
                whole, out, pr * BLOCK, pt * BT, rows, tokens, pairs, gate_bias, up_bias, GATE, OUT_WIDTH, OUT_ORDER,
                ASM,
            )  # fmt: skip


@triton.jit
def finish(
    results, out, first_row, first_token, rows, tokens, pairs, gate_bias, up_bias,
    GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Store results, a tuple of [rows, tokens], one tile below the other or a gate's and then what it gates."""
    M: tl.constexpr = results[0].shape[0]
    token = (first_token + tl.arange(0, results[0].shape[1]))[None, :]
    there = token < tokens
    if pairs is not None:
        token = tl.load(pairs + token, mask=there, other=0)
    if GATE == "":
        for t in tl.static_range(len(results)):
            at = (first_row + t * M + tl.arange(0, M))[:, None]
            tl.store(out + token * OUT_WIDTH + at, results[t], mask=(at < rows) & there)
    else:
        for t in tl.static_range(len(results) // 2):
            at = (first_row + t * M + tl.arange(0, M))[:, None]
            z, up = results[2 * t], results[2 * t + 1]
            if gate_bias is not None:
                z += tl.load(gate_bias + at, mask=at < rows, other=0.0)
                up += tl.load(up_bias + at, mask=at < rows, other=0.0)
            y = gated(z, up, GATE, ASM)
            to = out + token * OUT_WIDTH + place(at, OUT_ORDER)
            tl.store(to, y, mask=(at < rows) & there)


def programs(rows: int, tokens: int, bt: int, tiles: int, warps: int, gate: str) -> int:
    """Blocks of rows and tokens; rows: of y."""
    block = 16 * warps * tiles // (2 if gate else 1)
    return -(-rows // block) * -(-tokens // bt)


def launch(
    planes: Planes, x: torch.Tensor, y: torch.Tensor, scratch: torch.Tensor, counters: torch.Tensor, *,
    tokens: int, gate: str = "", out_order: int = NATURAL,
    bt: int, tiles: int, warps: int, ahead: int, stages: int, parts: int = 2, split: int = 1, band: int = 8,
    stream: bool = False,
) -> Launch:  # fmt: skip
    """y = x times the matrix transposed: see `wide`. x is in order `WIDE`.

    With a gate, tiles is even. scratch: float32, `scratch_size` elements, only read where split > 1; counters: int32
    zeros, one for each of `programs`, or more.
    """
    rows = planes.rows // 2 if gate else planes.rows
    return Launch(
        name="wide",
        kernel=wide,
        grid=(programs(rows, tokens, bt, tiles, warps, gate), split),
        arguments=(*planes.pointers, x, y, scratch, counters, rows, tokens),
        constants={
            "TRAITS": planes.traits, "COLS": planes.cols, "BT": bt, "ACROSS": -(-tokens // bt), "TILES": tiles,
            "WARPS": warps, "PARTS": parts, "AHEAD": ahead, "STAGES": stages, "SPLIT": split, "BAND": band,
            "GATE": gate,
            "OUT_WIDTH": y.stride(0), "OUT_ORDER": out_order, "STREAM": stream,
        },
        warps=warps,
    )  # fmt: skip


def scratch_size(planes: Planes, tokens: int, gate: str, bt: int, tiles: int, warps: int, split: int) -> int:
    """float32 elements of scratch."""
    rows = planes.rows // 2 if gate else planes.rows
    block = 16 * warps * tiles * bt
    return programs(rows, tokens, bt, tiles, warps, gate) * split * block if split > 1 else 1
