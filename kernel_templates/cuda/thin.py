"""A product of a packed matrix with few tokens, which weights bound: tensor cores, weights from memory to registers.

A program has 16 * TILES rows; its warps share the columns, and so do SPLIT programs. Every load of weights that fits in
registers (AHEAD steps of a warp) is under way before the wait for the kernel that writes the tokens.
"""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, misc"

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import norm_between
from kernel_templates.cuda.fragments import (
    NATURAL,
    THIN,
    decoded,
    fragment,
    gated,
    last_one,
    load_below,
    place,
    together,
    unlift,
    width,
)  # fmt: skip
from kernel_templates.cuda.instructions import all_asked_for, opaque
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.norm_between import (
    BEHIND,
    IN_FRONT,
    Behind,
    InFront,
    add_and_leave,
    ask,
    lacking,
)
from kernel_templates.cuda.parameters import thin_tokens
from kernel_templates.cuda.weights import Planes


@triton.jit
def load_tiles(
    w0, w1, w2, w3, q, rows, below, u, end,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, GATE: tl.constexpr, STREAM: tl.constexpr,
    RUN: tl.constexpr = 0,
):  # fmt: skip
    """Rows g and g + 8 of each of TILES tiles, runs u + RUN; q: the first tile's row g; with a gate every other tile is
    the one before, `below` rows further down."""
    held = ()
    for t in tl.static_range(2 * TILES):
        held = held + (
            load_below(
                w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, STREAM,
                8 * t if GATE == "" else t // 4 * 16 + t % 2 * 8, RUN, GATE != "" and t // 2 % 2 == 1,
            ),
        )  # fmt: skip
    return held


@triton.jit
def load_right(
    x, token, tokens, sources, u, end, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, NT: tl.constexpr
):
    """float16 [WARPS, 32, 8] for each word of a run and each 8 tokens: of runs u the columns of the word. sources: of
    each 8 tokens their rows of x; None where tokens are rows."""
    WARPS: tl.constexpr = u.shape[2]
    right = ()
    for w in tl.static_range(4):
        for n in tl.static_range(NT):
            have = ((u < end) & (token + 8 * n < tokens))[:, :, :, None]
            base = (token + 8 * n) * WIDTH if sources is None else sources[n] * WIDTH
            e = tl.arange(0, 8)[None, None, None, :]
            if ORDER == 0:
                v = tl.load(x + (base + u * 32)[:, :, :, None] + (8 * w + e), mask=have, other=0.0)
                v = tl.permute(tl.reshape(v, [4, 8, WARPS, 2, 2, 2]), [2, 5, 0, 3, 4, 1])  # j g warp h e p
            else:
                v = tl.load(x + (base + u // 4 * 128 + u % 4 * 8)[:, :, :, None] + (32 * w + e), mask=have, other=0.0)
                v = tl.permute(tl.reshape(v, [4, 8, WARPS, 2, 2, 2]), [2, 4, 0, 3, 5, 1])  # j g warp h p e
            right = right + (tl.reshape(v, [WARPS, 32, 8]),)
    return right


@triton.jit
def load_steps(
    w0, w1, w2, w3, q, rows, below, u, end,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, GATE: tl.constexpr, STREAM: tl.constexpr,
    WARPS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """`load_tiles` of AHEAD steps."""
    held = ()
    for a in tl.static_range(AHEAD):
        held = held + (
            load_tiles(w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, TILES, GATE, STREAM, a * WARPS * 4),
        )
    return held


@triton.jit
def parts_of(tiles, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """Halves of the tiles of a step, `decoded`."""
    parts = ()
    for t in tl.static_range(len(tiles)):
        parts = parts + (decoded(tiles[t], TRAITS, ASM),)
    return parts


@triton.jit
def left_operand(upper, lower, W: tl.constexpr, TRAITS: tl.constexpr, SETTLE: tl.constexpr, ASM: tl.constexpr):
    """float16 [WARPS, 16, 32]: word W of the runs of a tile. SETTLE: computed before any later wait."""
    first, second = fragment(upper, W, TRAITS, ASM), fragment(lower, W, TRAITS, ASM)
    if SETTLE:
        settle(first, ASM)
        settle(second, ASM)
    v = tl.permute(tl.join(first, second), [2, 6, 1, 4, 0, 3, 5])  # of j, g, warp, h, p, e, row half
    return tl.reshape(v, [v.shape[0], 16, 32])


@triton.jit
def lefts(tiles, TRAITS: tl.constexpr, TILES: tl.constexpr, SETTLE: tl.constexpr, ASM: tl.constexpr):
    """Left operands of a step: for each word of a run those of the tiles."""
    parts = parts_of(tiles, TRAITS, ASM)
    left = ()
    for w in tl.static_range(4):
        for t in tl.static_range(TILES):
            left = left + (left_operand(parts[2 * t], parts[2 * t + 1], w, TRAITS, SETTLE, ASM),)
    return left


@triton.jit
def settle(v, ASM: tl.constexpr):
    """Have a fragment computed here. ptxas would decode after the wait that follows, where it costs time; it cannot
    if an instruction with an effect depends on the result: one that has been executed before, for words that never
    are."""
    if ASM:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; .reg .b32 a, b; lop3.b32 a, $2, $3, $4, 0x96; xor.b32 b, a, $5;"
            "setp.eq.s32 p, b, 0x7C01FC23; @p griddepcontrol.launch_dependents; mov.b32 $0, 0; mov.b32 $1, 0; }",
            "=r,=r,r,r,r,r", [v], dtype=tl.int8, is_pure=False, pack=8,
        )  # fmt: skip


@triton.jit
def multiplied(
    parts, right, acc, TRAITS: tl.constexpr, TILES: tl.constexpr, NT: tl.constexpr, CHAINS: tl.constexpr,
    READY: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Sums after a step, each of its words' products going to one of CHAINS. parts: `parts_of` its tiles, or where they
    are READY `lefts`."""
    for w in tl.static_range(4):
        left = ()
        for t in tl.static_range(TILES):
            if READY:
                left = left + (parts[w * TILES + t],)
            else:
                left = left + (left_operand(parts[2 * t], parts[2 * t + 1], w, TRAITS, False, ASM),)
        new = ()
        for i in tl.static_range(CHAINS * TILES * NT):
            if i // (TILES * NT) == w % CHAINS:
                new = new + (tl.dot(left[i // NT % TILES], right[w * NT + i % NT], acc[i]),)
            else:
                new = new + (acc[i],)
        acc = new
    return acc


@triton.jit(do_not_specialize=["tokens"])
def thin(
    w0, w1, w2, w3, x, out, partial, counters, rows, tokens, squares, before, after, eps, stream, weight,
    TRAITS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, TOKENS: tl.constexpr,
    TILES: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr,
    READY: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, STREAM: tl.constexpr,
    NORM: tl.constexpr, PARTS: tl.constexpr, FACTOR: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out = x [tokens, WIDTH] float16, in ORDER, times W transposed: float32 [tokens, rows]; or with a GATE, where W
    has `rows` rows of the gate and below them those of what it gates, float16 [tokens, OUT_WIDTH] in OUT_ORDER.

    partial: float32 [programs, SPLIT, 16 * TILES * TOKENS], TILES up to a power of two; counters: int32 [programs],
    zeros. STEPS: how often 128 columns a warp are taken, a multiple of AHEAD. TOKENS: a multiple of 8, no less than
    `tokens`. READY: where all steps are AHEAD, they are decoded before the wait too. NORM: as of `norm_between`, 1
    in front of the norm, where out is float16, 2 behind it, 0 elsewhere; what comes with it is read only there.
    """
    program, split = tl.program_id(0), tl.program_id(1)
    if PDL:
        gdc_launch_dependents()
    multiply_thin(
        program, program, split, w0, w1, w2, w3, x, out, partial, counters, rows, rows, tokens, None, None, None,
        TRAITS, COLS, WIDTH, ORDER, TOKENS, TILES, WARPS, STEPS, SPLIT, AHEAD, READY, GATE, OUT_WIDTH, OUT_ORDER,
        STREAM, 1, PDL, ASM, squares, before, after, eps, stream, weight, NORM, PARTS, FACTOR,
    )  # fmt: skip


@triton.jit
def multiply_thin(
    program, block, split, w0, w1, w2, w3, x, out, partial, counters, rows, below, tokens, pairs, gate_bias, up_bias,
    TRAITS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, TOKENS: tl.constexpr,
    TILES: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr,
    READY: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr, STREAM: tl.constexpr,
    USED: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
    squares=None, before=None, after=None, eps=0.0, stream=None, weight=None,
    NORM: tl.constexpr = 0, PARTS: tl.constexpr = 1, FACTOR: tl.constexpr = 1.0,
):  # fmt: skip
    """What a program of `thin` does: `block` is that of its rows. below: rows from a gate to what it gates.

    pairs: int32 [tokens], of each token the row of out, USED of which have a row of x in common; None where tokens are
    rows of both. gate_bias, up_bias: float32 [rows], or None. PDL: the kernel that writes x is still to be waited for.
    """
    NT: tl.constexpr = TOKENS // 8
    BLOCK: tl.constexpr = 16 * TILES if GATE == "" else 8 * TILES
    # A product that adds to the one before waits for it: with one sum a thread there are two of every second word.
    CHAINS: tl.constexpr = 2 if TILES * NT == 1 else 1
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    q = opaque(block * BLOCK + g, ASM)
    RUNS: tl.constexpr = COLS // 32
    FOURS: tl.constexpr = (RUNS + 3) // 4
    POWER: tl.constexpr = triton.next_power_of_2(TILES)
    MATRICES: tl.constexpr = 1 if GATE == "" else 2
    u = opaque(split * FOURS // SPLIT * 4 + (warp * 4 + j), ASM)
    end = tl.minimum((split + 1) * FOURS // SPLIT * 4, RUNS)
    sources = None
    if pairs is not None:
        sources = ()
        for n in tl.static_range(NT):
            own = tl.load(pairs + g + 8 * n, mask=g + 8 * n < tokens, other=0) // USED
            sources = sources + (opaque(own, ASM),)
    held = load_steps(w0, w1, w2, w3, q, rows, below, u, end, TRAITS, COLS, TILES, GATE, STREAM, WARPS, AHEAD)
    acc = ()
    for _i in tl.static_range(CHAINS * TILES * NT):
        acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
    if STEPS == AHEAD:
        ready = ()
        if READY:
            for a in tl.static_range(AHEAD):
                ready = ready + (lefts(held[a], TRAITS, TILES, PDL, ASM),)
        if PDL:
            gdc_wait()
        asked = ask(block, rows, tokens, squares, before, stream, weight, NORM, PARTS, TOKENS, POWER, WARPS, ASM)
        rights = ()
        for a in tl.static_range(AHEAD):
            rights = rights + (load_right(x, g, tokens, sources, u + a * WARPS * 4, end, COLS, WIDTH, ORDER, NT),)
        if NT * AHEAD <= 4:  # as many registers as there are
            all_asked_for(ASM)
        for a in tl.static_range(AHEAD):
            parts = ready[a] if READY else parts_of(held[a], TRAITS, ASM)
            acc = multiplied(parts, rights[a], acc, TRAITS, TILES, NT, CHAINS, READY, ASM)
    else:
        if PDL:
            gdc_wait()
        asked = ask(block, rows, tokens, squares, before, stream, weight, NORM, PARTS, TOKENS, POWER, WARPS, ASM)
        right = load_right(x, g, tokens, sources, u, end, COLS, WIDTH, ORDER, NT)
        for step in tl.range(0, STEPS, AHEAD, num_stages=1):
            next_held = ()
            here = opaque(u + step * WARPS * 4, ASM)
            for a in tl.static_range(AHEAD):
                next_right = load_right(x, g, tokens, sources, here + (a + 1) * WARPS * 4, end, COLS, WIDTH, ORDER, NT)
                parts = parts_of(held[a], TRAITS, ASM)
                next_held = next_held + (
                    load_tiles(
                        w0, w1, w2, w3, q, rows, below, here, end,
                        TRAITS, COLS, TILES, GATE, STREAM, (AHEAD + a) * WARPS * 4,
                    ),
                )  # fmt: skip
                acc = multiplied(parts, right, acc, TRAITS, TILES, NT, CHAINS, False, ASM)
                right = next_right
            held = next_held
    if CHAINS == 2:
        acc = (acc[0] + acc[1],)
    for _i in tl.static_range((POWER - TILES) * NT):
        acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
    total = summed(acc, MATRICES, NT, WARPS, POWER // MATRICES) * unlift(TRAITS)
    if NORM == BEHIND:
        total *= lacking(asked, program + split, before, after, eps, tokens, COLS, TOKENS, POWER // MATRICES)
    if NORM == IN_FRONT:
        add_and_leave(total, asked, out, block, rows, tokens, squares, stream, FACTOR, TOKENS, OUT_WIDTH, ASM)
    elif SPLIT == 1:
        finish(total, out, block, rows, tokens, pairs, gate_bias, up_bias, NT, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM)
    else:
        COUNT: tl.constexpr = total.shape[1]
        SIZE: tl.constexpr = MATRICES * COUNT
        i = tl.arange(0, MATRICES)[None, None, :] * COUNT + opaque(tl.arange(0, COUNT), ASM)[None, :, None]
        at, _ = tl.broadcast(partial + program * (SPLIT * SIZE) + i, total)
        once, _ = tl.broadcast(tl.arange(0, total.shape[0])[:, None, None] == 0, total)
        tl.store(at + split * SIZE, total, mask=once)
        if last_one(counters, program, SPLIT):
            whole = tl.load(at, cache_modifier=".cg")
            for s in tl.static_range(1, SPLIT):
                whole += tl.load(at + s * SIZE, cache_modifier=".cg")
            finish(
                whole, out, block, rows, tokens, pairs, gate_bias, up_bias, NT, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM
            )


@triton.jit
def summed(acc, MATRICES: tl.constexpr, NT: tl.constexpr, WARPS: tl.constexpr, PAIRS: tl.constexpr):
    """Of sums [WARPS, 16, 8] of tiles and of 8 tokens each, those of all warps, [lanes that have the same, results of
    a matrix, MATRICES]: for each tile of the matrix token after token 16 rows.

    A sum over warps would exchange values between them three times, with many lanes at one bank of shared memory.
    Here they are exchanged once: the halves of a split lie in one thread, and its layout is the one by default, which
    has threads side by side along results, so that a thread has all that it adds; two or four neighbouring lanes have,
    where there are more threads than results."""
    COUNT: tl.constexpr = 128 * PAIRS * NT
    FOLD: tl.constexpr = 1 if 32 * WARPS <= COUNT else 32 * WARPS // COUNT
    if WARPS == 1:
        v = tl.reshape(together(acc), [16, 8, PAIRS, MATRICES, NT])
        return tl.reshape(tl.permute(v, [2, 4, 1, 0, 3]), [1, COUNT, MATRICES])
    else:
        DEEP: tl.constexpr = WARPS // FOLD // 2
        v = tl.reshape(together(acc), [DEEP, 2, FOLD, 16, 8, PAIRS, MATRICES, NT])
        v = tl.reshape(tl.permute(v, [0, 6, 5, 7, 4, 3, 2, 1]), [DEEP, MATRICES, COUNT, FOLD, 2])
        one, other = tl.split(v)
        total = tl.sum(one + other, 0)
        return tl.permute(tl.broadcast_to(tl.sum(total, 2, keep_dims=True), [MATRICES, COUNT, FOLD]), [2, 1, 0])


@triton.jit
def finish(
    total, out, block, rows, tokens, pairs, gate_bias, up_bias,
    NT: tl.constexpr, TILES: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Store results as `summed` gives them."""
    MATRICES: tl.constexpr = total.shape[2]
    i = opaque(tl.arange(0, total.shape[1]), ASM)[None, :]
    tile, token = i // (128 * NT), i // 16 % (8 * NT)
    at = block * (16 * TILES // MATRICES) + (tile * 16 + i % 16)
    keep = (at < rows) & (token < tokens) & (tile < TILES // MATRICES)
    keep = keep & (tl.arange(0, total.shape[0])[:, None] == 0)
    if pairs is not None:
        token = tl.load(pairs + token, mask=token < tokens, other=0)
    to, _ = tl.broadcast(out + token * OUT_WIDTH + place(at, OUT_ORDER), keep)
    if GATE == "":
        tl.store(to, tl.reshape(total, [total.shape[0], total.shape[1]]), mask=keep)
    else:
        z, up = tl.split(total)
        if gate_bias is not None:
            z += tl.load(gate_bias + at, mask=at < rows, other=0.0)
            up += tl.load(up_bias + at, mask=at < rows, other=0.0)
        tl.store(to, gated(z, up, GATE, ASM), mask=keep)


def programs(rows: int, tiles: int, gate: str) -> int:
    """Programs side by side; rows: of y."""
    return -(-rows // (8 * tiles if gate else 16 * tiles))


def launch(
    planes: Planes, x: torch.Tensor, y: torch.Tensor, scratch: torch.Tensor, counters: torch.Tensor, *,
    tokens: int, order: int = THIN, gate: str = "", out_order: int = NATURAL,
    tiles: int, warps: int, ahead: int, split: int = 1, ready: bool = False, norm: InFront | Behind | None = None,
) -> Launch:  # fmt: skip
    """y = x times the matrix transposed, of up to 32 tokens: see `thin`. order: of x, `NATURAL` or `THIN`. norm: a norm
    without a kernel of its own on one side, `norm_between`; in front of it there are no splits.

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
        grid=(programs(rows, tiles, gate), split),
        arguments=(*planes.pointers, x, y, scratch, counters, rows, tokens, *norm_between.pointers(norm)),
        constants={
            "TRAITS": planes.traits, "COLS": planes.cols, "WIDTH": width(planes.cols, order), "ORDER": order,
            "TOKENS": thin_tokens(tokens), "TILES": tiles, "WARPS": warps, "STEPS": triton.cdiv(steps, ahead) * ahead,
            "SPLIT": split, "AHEAD": ahead, "READY": ready and ahead == steps, "GATE": gate, "OUT_WIDTH": y.stride(0),
            "OUT_ORDER": out_order, "STREAM": True, **norm_between.constants(norm),
        },
        warps=warps,
    )  # fmt: skip


def scratch_size(planes: Planes, tokens: int, gate: str, tiles: int, split: int) -> int:
    """float32 elements of scratch."""
    rows = planes.rows // 2 if gate else planes.rows
    return (
        programs(rows, tiles, gate) * split * 16 * triton.next_power_of_2(tiles) * thin_tokens(tokens)
        if split > 1
        else 1
    )
