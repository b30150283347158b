"""A norm between two products of few tokens, without a kernel of its own: a launch takes longer than what it does.

    x += y * factor, y being the first product;  the second one's is of rmsnorm(x) * weight

The program in front that has some rows of y adds them to x, and leaves h = x * weight * before in float16, and its sums
of squares of x. The product is linear: behind it is multiplied what h lacks, 1 / (rms(x) * before). A norm's scale is
known only when the first product is whole, so `before` is taken from the norm before this one, times HEADROOM: the
residual stream may grow a million times from norm to norm until h is too large for float16, and what then lies below
its smallest normal number is less than rms / 250.

`before` and `after` are places of one norm and of the next, float32 [tokens]; a norm that has a kernel of its own
writes its place too, and leaves h whole.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernel_templates.cuda.fragments import THIN, place
from kernel_templates.cuda.instructions import opaque, to_half

HEADROOM = tl.constexpr(1 / 64)
IN_FRONT, BEHIND = tl.constexpr(1), tl.constexpr(2)


@dataclass(frozen=True)
class InFront:
    """Of the product in front: stream float32 [tokens, rows], x; weight float32 [rows], the norm's; factor: of the
    product; squares float32, `square_count` elements at least, written; before float32 [tokens], read."""

    stream: torch.Tensor
    weight: torch.Tensor
    factor: float
    squares: torch.Tensor
    before: torch.Tensor


@dataclass(frozen=True)
class Behind:
    """Of a product behind: parts: programs of the product in front; squares, before: what that had; after: written,
    where this is the first behind the norm, else None."""

    parts: int
    squares: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor | None
    eps: float


def square_count(hidden: int, tokens: int) -> int:
    """float32 elements that products in front of a norm of `hidden` leave of at most so many tokens, whatever their
    tiles."""
    return -(-hidden // 16) * -(-tokens // 8) * 8


def pointers(norm: InFront | Behind | None) -> tuple[Any, ...]:
    """squares, before, after, eps, stream and weight, as `thin` takes them."""
    if norm is None:
        return (None, None, None, 0.0, None, None)
    if isinstance(norm, Behind):
        return (norm.squares, norm.before, norm.after, norm.eps, None, None)
    return (norm.squares, norm.before, None, 0.0, norm.stream, norm.weight)


def constants(norm: InFront | Behind | None) -> dict[str, Any]:
    side = 0 if norm is None else BEHIND.value if isinstance(norm, Behind) else IN_FRONT.value
    return {
        "NORM": side,
        "PARTS": norm.parts if isinstance(norm, Behind) else 1,
        "FACTOR": norm.factor if isinstance(norm, InFront) else 1.0,
    }


@triton.jit
def ask(
    block, rows, tokens, squares, before, stream, weight,
    NORM: tl.constexpr, PARTS: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr, WARPS: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """What the end of a program needs, asked for beside its activations: in front of a norm x, weight and before of its
    results, [lanes, results] as `thin.summed` gives them; behind it sums of squares [parts, TOKENS]."""
    if NORM == IN_FRONT:
        at, token = results(block, TOKENS, TILES, ASM)
        keep = (at < rows) & (token < tokens)
        x = tl.load(stream + token * rows + at, mask=keep, other=0.0)
        scale = tl.load(weight + at, mask=at < rows, other=0.0)
        return x, scale * tl.load(before + token, mask=token < tokens, other=0.0)
    elif NORM == BEHIND:
        part = tl.arange(0, triton.next_power_of_2(PARTS))[:, None]
        token = tl.arange(0, triton.next_power_of_2(TOKENS))[None, :]
        return (tl.load(squares + part * TOKENS + token, mask=(part < PARTS) & (token < tokens), other=0.0),)
    else:
        return ()


@triton.jit
def results(block, TOKENS: tl.constexpr, TILES: tl.constexpr, ASM: tl.constexpr):
    """Row and token of each result of a program, [1, 16 * TILES * TOKENS]: tile by tile, token by token 16 rows."""
    i = opaque(tl.arange(0, 16 * TILES * TOKENS), ASM)[None, :]
    return block * (16 * TILES) + i // (16 * TOKENS) * 16 + i % 16, i // 16 % TOKENS


@triton.jit
def add_and_leave(
    total, asked, h, block, rows, tokens, squares, stream,
    FACTOR: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """x += total * FACTOR; h float16 [tokens, WIDTH], in the order of `thin`; squares[block], of TOKENS. total:
    [lanes, results, 1], each lane the same."""
    TILES: tl.constexpr = total.shape[1] // (16 * TOKENS)
    x, scale = asked
    at, token = results(block, TOKENS, TILES, ASM)
    keep = (at < rows) & (token < tokens) & (tl.arange(0, total.shape[0])[:, None] == 0)
    x = tl.where(at < rows, x + tl.reshape(total, [total.shape[0], total.shape[1]]) * FACTOR, 0.0)
    to, _ = tl.broadcast(stream + token * rows + at, keep)
    tl.store(to, x, mask=keep)
    to, _ = tl.broadcast(h + token * WIDTH + place(at, THIN_ORDER), keep)
    tl.store(to, to_half(x * scale), mask=keep)
    of_rows = tl.reshape(x * x, [total.shape[0], TILES, TOKENS, 16])
    sums = tl.sum(tl.sum(of_rows, 3), 1)
    lane, t = tl.arange(0, total.shape[0])[:, None], tl.arange(0, TOKENS)[None, :]
    tl.store(squares + block * TOKENS + t + lane * 0, sums, mask=(lane == 0) & (t < tokens))


THIN_ORDER = tl.constexpr(THIN)


@triton.jit
def lacking(asked, first, before, after, eps, tokens, COLS: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr):
    """[1, results, 1]: what results of h lack to be those of the norm; the program whose number is 0 writes `after`."""
    total = tl.sum(asked[0], 0)
    inverse = tl.rsqrt(total * (1.0 / COLS) + eps)
    token = tl.arange(0, total.shape[0])
    if after is not None:
        tl.store(after + token, inverse * HEADROOM, mask=(token < tokens) & (first == 0))
    lacks = inverse / tl.load(before + token, mask=token < tokens, other=1.0)
    each = tl.broadcast_to(lacks[None, :, None], [TILES, TOKENS, 16])
    return tl.reshape(each, [1, TILES * TOKENS * 16, 1])
