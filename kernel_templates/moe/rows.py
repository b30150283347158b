"""What stands around the products of a mixture over many tokens: the router, its choices sorted by expert, and the
weighted sum of what the chosen experts give. All of it stays on the device, in grids known beforehand.

    logits = W_router h (+ bias)            h float16, the logits as exact as float32 weights make them
    pairs of (token, expert), sorted by expert: stable, so that the same choices give the same order
    y[token] = sum over its experts of w y[pair] (+ w bias[expert]), in the order of its choice
"""

from collections.abc import Iterable
from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import NATURAL, place
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.moe.problem import Moe

FLOATS = ("router_logits", "expert_weights")
LOW = tl.constexpr(2048.0)
"""What the second half of a weight is multiplied with, to be a normal float16."""
TILE, STEP, PAIRS, COLUMNS = 16, 64, 2048, 1024
"""Tokens and experts of a program of the router, and its columns of a step; pairs that a sorting program looks at in
one go; columns of a program of the sum."""


@triton.jit(do_not_specialize=["tokens"])
def router(
    h, weight, bias, logits, tokens,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
    TILE: tl.constexpr, STEP: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """logits float32 [tokens, ROWS] = h [tokens, WIDTH] float16 in ORDER times weight float32 [ROWS, COLS], each weight
    the sum of two float16; plus bias [EXPERTS] for the first EXPERTS rows, unless it is None. Programs (rows,
    tokens)."""
    if PDL:
        gdc_launch_dependents()
    r = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    token = (tl.program_id(1) * TILE + tl.arange(0, TILE))[None, :]
    if PDL:
        gdc_wait()
    first = tl.zeros([TILE, TILE], tl.float32)
    second = first
    for k in tl.range(0, COLS, STEP):
        c = k + tl.arange(0, STEP)
        w = tl.load(weight + r * COLS + c[None, :], mask=(r < ROWS) & (c < COLS)[None, :], other=0.0)
        at = token * WIDTH + place(c, ORDER)[:, None]
        x = tl.load(h + at, mask=(token < tokens) & (c < COLS)[:, None], other=0.0)
        high = w.to(tl.float16)
        first = tl.dot(high, x, first)
        second = tl.dot(((w - high.to(tl.float32)) * LOW).to(tl.float16), x, second)
    y = first + second * (1 / LOW)
    if bias is not None:
        y += tl.load(bias + r, mask=r < EXPERTS, other=0.0)
    tl.store(logits + token * ROWS + r, y, mask=(r < ROWS) & (token < tokens))


@triton.jit
def group(
    ids, offsets, pairs,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program e: where the pairs of expert e begin, and their numbers, among COUNT pairs sorted by ids int32; the last
    one also where all end. Pairs of no expert are left out."""
    if PDL:
        gdc_launch_dependents()
    e = tl.program_id(0)
    i = tl.arange(0, TILE)
    if PDL:
        gdc_wait()
    before = 0
    own = 0
    for first in tl.range(0, COUNT, TILE):
        v = tl.load(ids + first + i, mask=first + i < COUNT, other=EXPERTS)
        before += tl.sum((v < e).to(tl.int32), 0)
        own += tl.sum((v == e).to(tl.int32), 0)
    tl.store(offsets + e, before)
    if e == EXPERTS - 1:
        tl.store(offsets + EXPERTS, before + own)
    for first in tl.range(0, COUNT, TILE):
        v = tl.load(ids + first + i, mask=first + i < COUNT, other=EXPERTS)
        mine = (v == e).to(tl.int32)
        at = before + tl.cumsum(mine, 0) - mine
        tl.store(pairs + at, first + i, mask=mine > 0)
        before += tl.sum(mine, 0)


@triton.jit
def combine(
    y, ids, weights, bias, shared, out,
    USED: tl.constexpr, SHARES: tl.constexpr, EXPERTS: tl.constexpr, HIDDEN: tl.constexpr, COLUMNS: tl.constexpr,
    FACTOR: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out float32 [tokens, HIDDEN] = the sum over a token's pairs of weights [tokens, SHARES] times (y [pairs, HIDDEN]
    FACTOR + bias [expert, HIDDEN], or None); plus shared [tokens, HIDDEN] FACTOR, unless it is None, times the weight
    behind. Nothing of an unused token. Programs (token, columns)."""
    if PDL:
        gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < HIDDEN
    if PDL:
        gdc_wait()
    total = tl.zeros([COLUMNS], tl.float32)
    for k in tl.static_range(USED):
        expert = tl.load(ids + token * USED + k)
        there = inside & (expert < EXPERTS)
        part = tl.load(y + (token * USED + k) * HIDDEN + c, mask=there, other=0.0) * FACTOR
        if bias is not None:
            part += tl.load(bias + expert * HIDDEN + c, mask=there, other=0.0)
        total += part * tl.load(weights + token * SHARES + k)
    if shared is not None:
        share = tl.load(weights + token * SHARES + USED)
        part = tl.load(shared + token * HIDDEN + c, mask=inside, other=0.0) * FACTOR
        total += tl.where(share != 0.0, part * share, 0.0)
    tl.store(out + token * HIDDEN + c, total, mask=inside)


def sizes(problem: Moe, tokens: int) -> dict[str, int]:
    """Elements of what the router and its choices leave of so many tokens, by name; of FLOATS float32, else int32."""
    p, pairs = problem, tokens * problem.used
    return {
        "router_logits": tokens * (p.experts + p.shared_gated), "expert_ids": pairs,
        "expert_weights": pairs + tokens * (p.shared_ffn > 0), "offsets": p.experts + 1, "pairs": pairs,
    }  # fmt: skip


def allocate(problems: Iterable[Moe], tokens: int, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Buffers of these names, each large enough for any of the problems. Floats are NaN, so that one nobody wrote is
    seen."""
    largest: dict[str, int] = {}
    for problem in problems:
        largest |= {name: max(size, largest.get(name, 0)) for name, size in sizes(problem, tokens).items()}
    return {
        name: torch.full((size,), float("nan"), device=device)
        if name in FLOATS
        else torch.zeros(size, dtype=torch.int32, device=device)
        for name, size in largest.items()
    }


def router_launch(
    problem: Moe, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, logits: torch.Tensor, tokens: int,
    order: int = NATURAL,
) -> Launch:  # fmt: skip
    """h float16 [tokens, width of its order]; weight float32 [experts and the shared one's, hidden]; writes logits
    float32 [tokens, as many]."""
    rows = problem.experts + problem.shared_gated
    constants: dict[str, Any] = {
        "EXPERTS": problem.experts, "ROWS": rows, "COLS": problem.hidden, "WIDTH": h.stride(0), "ORDER": order,
        "TILE": TILE, "STEP": STEP,
    }  # fmt: skip
    grid = (triton.cdiv(rows, TILE), triton.cdiv(tokens, TILE))
    return Launch("router", router, grid, (h, weight, bias, logits, tokens), constants, warps=4)


def group_launch(experts: int, ids: torch.Tensor, offsets: torch.Tensor, pairs: torch.Tensor) -> Launch:
    """ids int32 [pairs]; writes offsets int32 [experts + 1] and pairs int32 [pairs]."""
    tile = min(triton.next_power_of_2(ids.numel()), PAIRS)
    constants = {"EXPERTS": experts, "COUNT": ids.numel(), "TILE": tile}
    return Launch("group", group, (experts,), (ids, offsets, pairs), constants, warps=4)


def combine_launch(
    problem: Moe, y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None,
    shared: torch.Tensor | None, out: torch.Tensor, factor: float,
) -> Launch:  # fmt: skip
    """y float32 [tokens * used, hidden], out and shared float32 [tokens, hidden]; see `combine`."""
    columns = min(triton.next_power_of_2(problem.hidden), COLUMNS)
    constants: dict[str, Any] = {
        "USED": problem.used, "SHARES": problem.used + (problem.shared_ffn > 0), "EXPERTS": problem.experts,
        "HIDDEN": problem.hidden, "COLUMNS": columns, "FACTOR": factor,
    }  # fmt: skip
    grid = (len(out), triton.cdiv(problem.hidden, columns))
    return Launch("combine", combine, grid, (y, ids, weights, bias, shared, out), constants, warps=4)
