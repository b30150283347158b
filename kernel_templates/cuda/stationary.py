"""A product of a packed matrix with few tokens that stay in registers, while blocks of rows pass by.

The warps of a program share the columns, and so do SPLIT programs: each warp keeps the tokens' values of its own
columns for good and takes 16 * TILES rows after another, the next ones on their way while the present ones are
multiplied. What programs leave for each other is summed up once, by the last of them, for all of their blocks.
"""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, misc"

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import thin
from kernel_templates.cuda.fragments import NATURAL, THIN, last_one, unlift, width
from kernel_templates.cuda.instructions import loads_first, loop_bound, opaque
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.parameters import thin_tokens
from kernel_templates.cuda.thin import finish, load_right, load_steps, load_tiles, multiplied, parts_of, summed
from kernel_templates.cuda.weights import Planes


@triton.jit(do_not_specialize=["tokens", "blocks"])
def stationary(
    w0, w1, w2, w3, x, out, partial, counters, rows, tokens, blocks,
    TRAITS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr,
    WARPS: tl.constexpr, STEPS: tl.constexpr, SPLIT: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr,
    OUT_ORDER: tl.constexpr, STREAM: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out = x [tokens, WIDTH] float16, in order `THIN`, times W transposed, as of `thin`. Program (p, s) takes blocks
    p, p + programs, ... of rows, and share s of the columns.

    partial: float32 [blocks, SPLIT, 16 * TILES * TOKENS], TILES up to a power of two; counters: int32 [programs],
    zeros. STEPS: of 128 columns a warp. TOKENS: a multiple of 8, no less than `tokens`.
    """
    NT: tl.constexpr = TOKENS // 8
    MATRICES: tl.constexpr = 1 if GATE == "" else 2
    BLOCK: tl.constexpr = 16 * TILES // MATRICES
    CHAINS: tl.constexpr = 2 if TILES * NT == 1 else 1
    program, split = tl.program_id(0), tl.program_id(1)
    if PDL:
        gdc_launch_dependents()
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    FOURS: tl.constexpr = (COLS + 127) // 128
    u = opaque(split * FOURS // SPLIT * 4 + (warp * 4 + j), ASM)
    end = tl.minimum((split + 1) * FOURS // SPLIT * 4, COLS // 32)
    q = opaque(program * BLOCK + g, ASM)
    held = load_steps(w0, w1, w2, w3, q, rows, u, end, TRAITS, COLS, TILES, GATE, STREAM, WARPS, STEPS)
    if PDL:
        gdc_wait()
    rights = ()
    for a in tl.static_range(STEPS):
        rights = rights + (load_right(x, g, tokens, u + a * WARPS * 4, end, COLS, WIDTH, 2, NT),)
    first, beyond, every = loop_bound(program, ASM), loop_bound(blocks, ASM), loop_bound(tl.num_programs(0), ASM)
    for block in tl.range(first, beyond, every, num_stages=1):
        acc = ()
        for _i in tl.static_range(CHAINS * TILES * NT):
            acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
        q = opaque((block + tl.num_programs(0)) * BLOCK + g, ASM)
        next_held = ()
        for a in tl.static_range(STEPS):
            next_held = next_held + (
                load_tiles(w0, w1, w2, w3, q, rows, u, end, TRAITS, COLS, TILES, GATE, STREAM, a * WARPS * 4),
            )
            loads_first(tokens, ASM)
            parts = parts_of(held[a], TRAITS, ASM)
            acc = multiplied(parts, rights[a], acc, TRAITS, TILES, NT, CHAINS, False, ASM)
        held = next_held
        if CHAINS == 2:
            acc = (acc[0] + acc[1],)
        POWER: tl.constexpr = triton.next_power_of_2(TILES)
        for _i in tl.static_range((POWER - TILES) * NT):
            acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
        total = summed(acc, MATRICES, NT, WARPS, POWER // MATRICES) * unlift(TRAITS)
        if SPLIT == 1:
            finish(total, out, block, rows, tokens, NT, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM)
        else:
            at = share(partial, block, total.shape[0], total.shape[1], MATRICES, SPLIT, ASM)
            once, _ = tl.broadcast(tl.arange(0, total.shape[0])[:, None, None] == 0, total)
            tl.store(at + split * (MATRICES * total.shape[1]), total, mask=once)
    if SPLIT > 1 and last_one(counters, program, SPLIT):
        COUNT: tl.constexpr = 128 * triton.next_power_of_2(TILES) // MATRICES * NT
        FOLD: tl.constexpr = 1 if 32 * WARPS <= COUNT else 32 * WARPS // COUNT
        for block in tl.range(first, beyond, every, num_stages=1):
            at = share(partial, block, FOLD, COUNT, MATRICES, SPLIT, ASM)
            whole = tl.load(at, cache_modifier=".cg")
            for s in tl.static_range(1, SPLIT):
                whole += tl.load(at + s * (MATRICES * COUNT), cache_modifier=".cg")
            finish(whole, out, block, rows, tokens, NT, TILES, GATE, OUT_WIDTH, OUT_ORDER, ASM)


@triton.jit
def share(
    partial, block, FOLD: tl.constexpr, COUNT: tl.constexpr, MATRICES: tl.constexpr, SPLIT: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Where the first share of a block's results lies, as `summed` gives them: [FOLD, COUNT, MATRICES]."""
    lane = tl.arange(0, FOLD)[:, None, None] * 0
    i = tl.arange(0, MATRICES)[None, None, :] * COUNT + opaque(tl.arange(0, COUNT), ASM)[None, :, None] + lane
    return partial + block * (SPLIT * MATRICES * COUNT) + i


def launch(
    planes: Planes, x: torch.Tensor, y: torch.Tensor, scratch: torch.Tensor, counters: torch.Tensor, *,
    tokens: int, gate: str = "", out_order: int = NATURAL, tiles: int, warps: int, turns: int, split: int = 1,
) -> Launch:  # fmt: skip
    """y = x times the matrix transposed, of up to 32 tokens: see `stationary`. x is in order `THIN`.

    turns: blocks of rows of a program; scratch: float32, as many elements as `thin` needs, only read where split > 1;
    counters: int32 zeros, one for each program side by side, or more.
    """
    rows = planes.rows // 2 if gate else planes.rows
    blocks = thin.programs(rows, tiles, gate)
    steps = triton.cdiv(triton.cdiv(triton.cdiv(planes.cols, 128), split), warps)
    return Launch(
        name="stationary",
        kernel=stationary,
        grid=(triton.cdiv(blocks, turns), split),
        arguments=(*planes.pointers, x, y, scratch, counters, rows, tokens, blocks),
        constants={
            "TRAITS": planes.traits, "COLS": planes.cols, "WIDTH": width(planes.cols, THIN),
            "TOKENS": thin_tokens(tokens), "TILES": tiles, "WARPS": warps, "STEPS": steps, "SPLIT": split,
            "GATE": gate, "OUT_WIDTH": y.stride(0), "OUT_ORDER": out_order, "STREAM": True,
        },
        warps=warps,
    )  # fmt: skip

