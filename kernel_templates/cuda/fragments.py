"""Packed weights as operands of tensor cores, straight from the loads that bring them.

Of a matrix product of 16 rows, 16 columns and 8 tokens (mma.m16n8k16) the thread 4 g + j has, of the left operand, rows
g and g + 8, and of these columns 2j, 2j + 1, 2j + 8 and 2j + 9. Which columns those are is free, as long as the right
operand has the same order. So thread j takes the unit j of four neighbouring ones (`traits.Traits.unit` columns, 16
bytes of quants): what it has loaded it multiplies itself, and no value goes from one thread to another.

A tile is [4, 8, WARPS] threads, j, g and warp, and of quants [4, 8, WARPS, 4] words.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl

from kernel_templates.cuda.codes import codebook_bytes
from kernel_templates.cuda.dot import quant_words, unpack_scales


@triton.jit
def load_rows(
    p0, p1, p2, p3, r, u, inside,
    TRAITS: tl.constexpr, COLS: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """The planes of rows r [1, 8, 1], units u [4, 1, WARPS], where `inside`; zeros elsewhere."""
    COUNT: tl.constexpr = COLS // TRAITS.unit
    RUNS: tl.constexpr = COLS // 32
    POLICY: tl.constexpr = "evict_first" if STREAM else ""
    planes = (p0, p1, p2, p3)
    tile = ()
    if TRAITS.kind != "" or TRAITS.bits & 12:
        at = p0 + (r * (COUNT * 4) + u * 4)[:, :, :, None] + tl.arange(0, 4)[None, None, None, :]
        tile = tile + (tl.load(at, mask=inside[:, :, :, None], other=0, eviction_policy=POLICY),)
    if TRAITS.kind == "":
        MORE: tl.constexpr = len(tile)
        SCALE: tl.constexpr = TRAITS.scale
        for plane in tl.static_range(MORE, SCALE):
            tile = tile + (tl.load(planes[plane] + (r * RUNS + u), mask=inside, other=0, eviction_policy=POLICY),)
        if TRAITS.group:
            BLOCKS: tl.constexpr = COLS // TRAITS.size
            SHARE: tl.constexpr = TRAITS.size // 32
            tile = tile + (tl.load(planes[SCALE] + (r * BLOCKS + u // SHARE), mask=inside, other=0),)
        else:
            HALVES: tl.constexpr = 32 // TRAITS.unit
            tile = tile + (tl.load(planes[SCALE] + (r * RUNS + u // HALVES), mask=inside, other=0),)
        if TRAITS.lowest >= 0:
            tile = tile + (tl.load(planes[TRAITS.lowest] + (r * RUNS + u), mask=inside, other=0),)
    return tile


@triton.jit
def twice(x, ASM: tl.constexpr):
    """float32 as two equal float16 in a word."""
    if ASM:
        return tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $1, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        return (x.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) * 0x10001


@triton.jit
def byte_values(word, scale, minimum, SIGNED: tl.constexpr, MINIMUM: tl.constexpr, ASM: tl.constexpr):
    """Four float16: each byte of words times scale, plus minimum; these are words of two equal float16.

    A byte b below the exponent of 1024 is 1024 + b; 1024, or 1152 of bytes whose sign has been turned, is subtracted.
    """
    if ASM:
        FLIP: tl.constexpr = "xor.b32 w, $4, 0x80808080;" if SIGNED else "mov.b32 w, $4;"
        LESS: tl.constexpr = "0x64806480" if SIGNED else "0x64006400"
        SCALED: tl.constexpr = "fma.rn.f16x2 a, a, $5, $6; fma.rn.f16x2 b, b, $5, $6;" if MINIMUM else "mul.rn.f16x2 a, a, $5; mul.rn.f16x2 b, b, $5;"
        CODE: tl.constexpr = (
            "{ .reg .b32 w, a, b, z, m; " + FLIP + " mov.b32 z, 0x64646464; mov.b32 m, " + LESS + ";"
            "prmt.b32 a, w, z, 0x4140; prmt.b32 b, w, z, 0x4342; sub.rn.f16x2 a, a, m; sub.rn.f16x2 b, b, m; "
            + SCALED + " mov.b32 {$0, $1}, a; mov.b32 {$2, $3}, b; }"
        )  # fmt: skip
        return tl.inline_asm_elementwise(
            CODE, "=h,=h,=h,=h,r,r,r", [word, scale, minimum],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        out = ()
        s = scale.to(tl.int16).to(tl.float16, bitcast=True)
        for i in tl.static_range(4):
            if SIGNED:
                q = ((word << (24 - 8 * i)) >> 24).to(tl.float16)
            else:
                q = ((word >> (8 * i)) & 255).to(tl.float16)
            if MINIMUM:
                v = q.to(tl.float32) * s.to(tl.float32) + minimum.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
            else:
                v = q.to(tl.float32) * s.to(tl.float32)
            out = out + (v.to(tl.float16),)
        return out


@triton.jit
def word_of(words, W: tl.constexpr):
    """[4, 8, WARPS] of [4, 8, WARPS, 4]."""
    WARPS: tl.constexpr = words.shape[2]
    even, odd = tl.split(tl.reshape(words, [4, 8, WARPS, 2, 2]))  # words 0 and 2, 1 and 3
    some = odd if W % 2 == 1 else even
    first, second = tl.split(some)
    return second if W // 2 == 1 else first


@triton.jit
def decoded(tile, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """(words of first halves, of second halves, then per group of a run: scale words, then minimum words)."""
    if TRAITS.bits == 8:
        s = tile[1].to(tl.float32)
        return tile[0], tile[0], twice(s, ASM)
    else:
        if TRAITS.codebook is not None:
            CODEBOOK: tl.constexpr = TRAITS.codebook
            a, b = codebook_bytes(tile[0], CODEBOOK, ASM)
        else:
            a, b = quant_words(tile, TRAITS)
        # Lifted quants stay lifted, and so do products: a scale divided by 16 may be too small for float16.
        scales = unpack_scales(tile, TRAITS, False)
        out = (a, b)
        for i in tl.static_range(len(scales)):
            out = out + (twice(scales[i], ASM),)
        return out


@triton.jit
def fragment(parts, W: tl.constexpr, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """float16 [4, 8, WARPS, e, p, h]: the 8 columns of word W of units, or, of units of 16 columns, of words 2 W and
    2 W + 1."""
    GROUPS: tl.constexpr = 2 if TRAITS.group == 16 else 1
    SIGNED: tl.constexpr = TRAITS.signed or TRAITS.codebook is not None
    G: tl.constexpr = W // 2 if GROUPS == 2 else 0
    BYTES: tl.constexpr = TRAITS.unit == 16
    scale = parts[2 + G]
    if TRAITS.minimum:
        minimum = parts[2 + GROUPS + G]
    else:
        minimum = scale
    word = word_of(parts[0], 2 * W if BYTES else W)
    a0, a1, a2, a3 = byte_values(word, scale, minimum, SIGNED, TRAITS.minimum, ASM)
    a = tl.join(tl.join(a0, a1), tl.join(a2, a3))
    word = word_of(parts[1], 2 * W + 1 if BYTES else W)
    b0, b1, b2, b3 = byte_values(word, scale, minimum, SIGNED, TRAITS.minimum, ASM)
    b = tl.join(tl.join(b0, b1), tl.join(b2, b3))
    return tl.join(a, b)
