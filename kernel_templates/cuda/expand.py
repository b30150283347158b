"""Packed weights back to numbers, for matrix products over many tokens (prefill), which a library does best.

A plane of quants is one long row of runs of 32 columns (see `weights`), so a kernel needs no rows: it takes groups of 8
columns and writes 16 bytes a group. Values are those of the format's own dequantize, rounded once to float16; F16 and
BF16 only change their order, and F32 is used as it is.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernel_templates.cuda import weights
from kernel_templates.cuda.launch import Launch, Target
from kernel_templates.cuda.weights import Planes

_GROUPS = 1024  # groups of 8 columns a program; the interpreter wants few programs, a GPU thousands


@triton.jit
def expand(
    p0, p1, p2, p3, out, groups, FORMAT: tl.constexpr, GROUPS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr
):
    """out[8 g + 4 h + j] = weight j of half h of group g, as 16 bits.

    Group g is word g % 4 of run g // 4, a pair of words if weights are bytes, or 4 words of 16-bit floats.
    """
    g = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    inside = g < groups
    half = tl.arange(0, 2)[None, :, None]
    column = tl.arange(0, 4)[None, None, :]
    byte = 8 * column
    at = g[:, None, None] * 8 + 4 * half + column
    keep, _ = tl.broadcast(inside[:, None, None], at)
    if FORMAT == "F16" or FORMAT == "BF16":
        words = tl.load(p0 + g[:, None, None] * 4 + column, mask=inside[:, None, None], other=0)
        bits = (words >> (16 * half)).to(tl.int16)
    else:
        value = decode(p0, p1, p2, p3, g, inside, half, byte, FORMAT)
        bits = value.to(tl.float16).to(tl.int16, bitcast=True)
    tl.store(out + at, bits, mask=keep)


@triton.jit
def decode(p0, p1, p2, p3, g, inside, half, byte, FORMAT: tl.constexpr):
    """float32 [GROUPS, 2, 4]: groups g of a quantized matrix; half [1, 2, 1]; byte [1, 1, 4]: its first bit."""
    run = g // 4
    if FORMAT == "Q8_0":
        first = tl.load(p0 + run * 8 + g % 4, mask=inside, other=0)
        second = tl.load(p0 + run * 8 + 4 + g % 4, mask=inside, other=0)
        q = (tl.join(first, second)[:, :, None] << (24 - byte)) >> 24
    else:
        q = (tl.load(p0 + g, mask=inside, other=0)[:, None, None] >> (byte + 4 * half)) & 15
    if FORMAT == "Q6_K":
        upper = tl.load(p1 + run, mask=inside, other=0) >> (2 * (g % 4))
        q = q | (((upper[:, None, None] >> (byte + 32 * half)).to(tl.int32) & 3) << 4)
        pair = tl.load(p2 + run, mask=inside, other=0).to(tl.int32)
        subscale = tl.where(g % 4 < 2, (pair << 24) >> 24, pair >> 8)
        scale = tl.load(p3 + g // 32, mask=inside, other=0.0).to(tl.float32) * subscale.to(tl.float32)
        return ((q ^ 32) - 32).to(tl.float32) * scale[:, None, None]
    scale = tl.load(p1 + run, mask=inside, other=0.0).to(tl.float32)
    if FORMAT == "Q4_0":
        q = (q ^ 8) - 8
    value = q.to(tl.float32) * scale[:, None, None]
    if FORMAT == "Q4_1":
        value += tl.load(p2 + run, mask=inside, other=0.0).to(tl.float32)[:, None, None]
    return value


def dtype(planes: Planes) -> torch.dtype:
    """What a matrix is multiplied in."""
    return {"F32": torch.float32, "BF16": torch.bfloat16}.get(planes.format, torch.float16)


def launch(planes: Planes, out: torch.Tensor) -> Launch:
    """Write a matrix of any format but F32 to out: `dtype`, contiguous, rows * cols elements or more."""
    groups = planes.rows * planes.cols // 8
    return Launch(
        name="expand",
        kernel=expand,
        grid=(triton.cdiv(groups, _GROUPS),),
        arguments=(*planes.pointers, out.view(torch.int16), groups),
        constants={"FORMAT": planes.format, "GROUPS": _GROUPS},
        warps=8,
    )


def matrix(parts: Sequence[Planes], buffer: torch.Tensor, target: Target | None) -> torch.Tensor:
    """Matrices of one width and `dtype`, one below the other: [rows, cols], in `buffer` (float16), F32 where it lies.

    A buffer is read by the caller's products and written by the next call, in stream order: kernels here are launched
    without PDL, because a library's kernels may let the next one start before they have read it. target: None expands
    with torch, on any device.
    """
    cols = parts[0].cols
    if dtype(parts[0]) == torch.float32:
        whole = [weights.unpack(p) for p in parts]
        return whole[0] if len(parts) == 1 else torch.cat(whole)
    out = buffer[: sum(p.rows for p in parts) * cols].view(dtype(parts[0])).view(-1, cols)
    first = 0
    for p in parts:
        rows = out[first : first + p.rows]
        if target is None:
            rows.copy_(weights.unpack(p))
        else:
            launch(p, rows).run(Target(pdl=False, asm=target.asm))
        first += p.rows
    return out
