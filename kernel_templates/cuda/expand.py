"""Packed weights back to numbers, all float16, for matrix products over many tokens, which a library does best.

A plane of quants is one long row of runs of 32 columns (see `traits`), so a kernel needs no rows: it takes groups of 8
columns and writes 16 bytes a group. Values are those of the format's own dequantize, rounded once to float16; float16
only changes its order.
"""

import torch
import triton.language as tl

from kernel_templates.cuda.codes import byte_of_word, entry, half_of, scale_of
from kernel_templates.cuda.dot import first_halves
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.traits import line_runs
from kernel_templates.cuda.weights import Planes

_GROUPS = 1024  # groups of 8 columns a program; the interpreter wants few programs, a GPU thousands


@triton.jit
def expand(
    p0, p1, p2, p3, out, groups,
    TRAITS: tl.constexpr, LINE: tl.constexpr, GROUPS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[8 g + 4 h + j] = weight j of half h of group g, the bits of a float16. LINE: as of `traits.line_runs`.

    Group g is word g % 4 of run g // 4, a pair of words if weights are bytes, or 4 words of 16-bit floats, or 8 floats.
    """
    # Opaque, or a thread would load four words at once for three other threads, through shared memory and barriers.
    g = tl.program_id(0) * GROUPS + opaque(tl.arange(0, GROUPS), ASM)
    inside = g < groups
    half = tl.arange(0, 2)[None, :, None]
    column = tl.arange(0, 4)[None, None, :]
    byte = 8 * column
    if TRAITS.kind == "f32":
        words = tl.load(p0 + g[:, None, None] * 8 + 4 * half + column, mask=inside[:, None, None], other=0)
        bits = words.to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
    elif TRAITS.kind != "":
        words = tl.load(p0 + g[:, None, None] * 4 + column, mask=inside[:, None, None], other=0)
        bits = (words >> (16 * half)).to(tl.int16)
        if TRAITS.kind == "bf16":
            bits = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True).to(tl.float16).to(tl.int16, bitcast=True)
    else:
        value = decode(p0, p1, p2, p3, g, inside, half, byte, TRAITS, LINE)
        bits = value.to(tl.float16).to(tl.int16, bitcast=True)
    # Two dimensions, so that a thread has the 16 bytes of a group and a warp's are next to each other.
    at = g[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(out + at, tl.reshape(bits, [GROUPS, 8]), mask=inside[:, None])


@triton.jit
def decode(p0, p1, p2, p3, g, inside, half, byte, TRAITS: tl.constexpr, LINE: tl.constexpr):
    """float32 [GROUPS, 2, 4]: groups g of a quantized matrix; half [1, 2, 1]; byte [1, 1, 4]: its first bit."""
    planes = (p0, p1, p2, p3)
    run = g // 4
    q = decode_quants(planes, g, run, inside, half, byte, TRAITS, LINE)
    if TRAITS.group:
        scale, minimum = decode_scales(planes, g, run, inside, TRAITS)
    else:
        scale = scale_of(tl.load(planes[TRAITS.scale] + run, mask=inside, other=0))
    if TRAITS.codebook is not None:
        CODEBOOK: tl.constexpr = TRAITS.codebook
        q = entry(q, CODEBOOK)
    elif TRAITS.signed and TRAITS.bits < 8:
        q = (q ^ (1 << (TRAITS.bits - 1))) - (1 << (TRAITS.bits - 1))
    value = q.to(tl.float32) * scale[:, None, None]
    if TRAITS.subminimum:
        value += minimum[:, None, None]
    elif TRAITS.minimum:
        value += tl.load(planes[TRAITS.lowest] + run, mask=inside, other=0.0).to(tl.float32)[:, None, None]
    return value


@triton.jit
def decode_quants(planes, g, run, inside, half, byte, TRAITS: tl.constexpr, LINE: tl.constexpr):
    """int32 [GROUPS, 2, 4]: as stored, a byte's sign extended."""
    if TRAITS.bits == 8:
        at = planes[0] + first_halves(run, LINE) + g % 4
        first = tl.load(at, mask=inside, other=0)
        second = tl.load(at + 4 * LINE, mask=inside, other=0)
        return (tl.join(first, second)[:, :, None] << (24 - byte)) >> 24
    else:
        q = byte * 0 + half * 0
        if TRAITS.bits & 4:
            words = tl.load(planes[0] + g, mask=inside, other=0)[:, None, None]
            # A codebook's nibbles are in the order of the columns.
            q = (words >> (byte + 4 * half if TRAITS.codebook is None else byte // 2 + 16 * half)) & 15
        if TRAITS.bits & 2:
            upper = tl.load(planes[TRAITS.pairs] + run, mask=inside, other=0) >> (2 * (g % 4))
            q = q | (((upper[:, None, None] >> (byte + 32 * half)).to(tl.int32) & 3) << (TRAITS.bits & 4))
        if TRAITS.bits & 1:
            upper = tl.load(planes[TRAITS.ones] + run, mask=inside, other=0) >> (g % 4)
            q = q | (((upper[:, None, None] >> (byte + 4 * half)) & 1) << (TRAITS.bits - 1))
        return q


@triton.jit
def decode_scales(planes, g, run, inside, TRAITS: tl.constexpr):
    """float32 [GROUPS]: scale and, as it is added, minimum (0 without one) of groups under subscales."""
    codes = tl.load(planes[TRAITS.codes] + run, mask=inside, other=0).to(tl.int32)
    subscale = _code_of_group(codes, g, 0, TRAITS)
    stored = tl.load(planes[TRAITS.scale] + g // (TRAITS.size // 8), mask=inside, other=0)
    if TRAITS.subminimum:
        minimum = -half_of(stored, 1) * _code_of_group(codes, g, 32 // TRAITS.group, TRAITS).to(tl.float32)
        return half_of(stored, 0) * subscale.to(tl.float32), minimum
    else:
        return scale_of(stored) * subscale.to(tl.float32), 0.0


@triton.jit
def _code_of_group(codes, g, FIRST: tl.constexpr, TRAITS: tl.constexpr):
    """Subscale, or from FIRST on subminimum, of groups g of 8 columns."""
    BYTES: tl.constexpr = 32 // TRAITS.group * (2 if TRAITS.subminimum else 1)
    if TRAITS.group == 16:
        return tl.where(g % 4 < 2, byte_of_word(codes, FIRST, BYTES), byte_of_word(codes, FIRST + 1, BYTES))
    else:
        return byte_of_word(codes, FIRST, BYTES)


def launch(planes: Planes, out: torch.Tensor) -> Launch:
    """Write a matrix to out: float16, contiguous, rows * cols elements or more."""
    groups = planes.rows * planes.cols // 8
    return Launch(
        name="expand",
        kernel=expand,
        grid=(triton.cdiv(groups, _GROUPS),),
        arguments=(*planes.pointers, out.view(torch.int16), groups),
        constants={"TRAITS": planes.traits, "LINE": line_runs(planes.cols), "GROUPS": _GROUPS},
        warps=8,
    )
