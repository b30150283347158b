"""Packed weights as operands of tensor cores, straight from the loads that bring them.

Of a matrix product of 16 rows, 16 columns and 8 tokens (mma.m16n8k16) the thread 4 g + j has, of the left operand, rows
g and g + 8, and of these columns 2j, 2j + 1, 2j + 8 and 2j + 9. Which columns those are is free, as long as the right
operand has the same order. So thread j takes run j (32 columns) of four neighbouring ones: what it has loaded it
multiplies itself, and no value goes from one thread to another.

A tile is [4, 8, WARPS] threads, j, g and warp, and of quants [4, 8, WARPS, 4] words.

Tokens may lie in memory in an order that suits the kernel, ORDER:

    0  natural
    1  for `wide`, which reads them through shared memory
    2  for `thin`, which reads them 16 bytes at a time

In both columns stay in their group of 128. Say a column is 128 i + 32 j + 8 w + 4 h + 2 e + p: run j of the group, word
w of the run, half h of the word, byte 2 e + p. Its place is 128 i + 32 w + 16 h + 8 p + 2 j + e in order 1, and
128 i + 32 w + 8 j + 4 h + 2 p + e in order 2. A token then takes `width(cols, ORDER)` elements, whole groups of 128;
the places that no column has are zeros for ever: whoever allocates a buffer clears it, and nobody writes there.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import torch
import triton.language as tl

from kernel_templates.cuda.codes import codebook_bytes
from kernel_templates.cuda.dot import first_halves, quant_words, unpack_scales
from kernel_templates.cuda.gating import GATED_SCALE, activate, gated_with
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.lazy_triton import triton

NATURAL, WIDE, THIN = ORDERS = 0, 1, 2


def width(cols: int, order: int) -> int:
    """Elements from a token to the next of x with `cols` columns in `order`."""
    return cols if order == NATURAL else -(-cols // 128) * 128


def places(cols: int, order: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """int64 [cols]: where columns lie in a token in `order`."""
    c = torch.arange(cols, device=device)
    if order == NATURAL:
        return c
    j, w, h, e, p = c // 32 % 4, c // 8 % 4, c // 4 % 2, c // 2 % 2, c % 2
    within = 32 * w + 16 * h + 8 * p + 2 * j + e if order == WIDE else 32 * w + 8 * j + 4 * h + 2 * p + e
    return c // 128 * 128 + within


def arranged(x: torch.Tensor, order: int) -> torch.Tensor:
    """x [tokens, cols] as a new tensor [tokens, width] in `order`, zeros where no column lies."""
    out = torch.zeros((x.shape[0], width(x.shape[1], order)), dtype=x.dtype, device=x.device)
    if not x.is_meta:  # for which torch would import its whole compiler
        out[:, places(x.shape[1], order, x.device)] = x
    return out


@triton.jit
def place(column, ORDER: tl.constexpr):
    """Where columns lie in a token."""
    if ORDER == 0:
        return column
    else:
        j, w, h = column // 32 % 4, column // 8 % 4, column // 4 % 2
        e, p = column // 2 % 2, column % 2
        if ORDER == 1:
            return column // 128 * 128 + (32 * w + 16 * h + 8 * p + 2 * j + e)
        else:
            return column // 128 * 128 + (32 * w + 8 * j + 4 * h + 2 * p + e)


@triton.jit
def load_rows(
    p0, p1, p2, p3, r, u, inside,
    TRAITS: tl.constexpr, COLS: tl.constexpr, STREAM: tl.constexpr, ROW: tl.constexpr = 0, RUN: tl.constexpr = 0,
):  # fmt: skip
    """The planes of rows r + ROW, runs u + RUN, which broadcast to [4, 8, WARPS], where `inside`; zeros elsewhere. Of 8
    bits a column two parts of quants, of first and of second halves. What ROW and RUN add to an address costs no
    instruction if r and u are opaque."""
    RUNS: tl.constexpr = COLS // 32
    POLICY: tl.constexpr = "evict_first" if STREAM else ""
    planes = (p0, p1, p2, p3)
    tile = ()
    if TRAITS.bits & 12:
        WORDS: tl.constexpr = 8 if TRAITS.bits == 8 else 4
        within = tl.arange(0, 4)[None, None, None, :]
        if TRAITS.bits == 8:
            LINE: tl.constexpr = TRAITS.line if COLS % TRAITS.block == 0 else 1
            words = first_halves(u + RUN, LINE)
            at = p0 + (r * (RUNS * WORDS) + words)[:, :, :, None] + (ROW * RUNS * WORDS + within)
        else:
            at = p0 + (r * (RUNS * WORDS) + u * WORDS)[:, :, :, None] + ((ROW * RUNS + RUN) * WORDS + within)
        tile = tile + (tl.load(at, mask=inside[:, :, :, None], other=0, eviction_policy=POLICY),)
        if TRAITS.bits == 8:
            tile = tile + (tl.load(at + 4 * LINE, mask=inside[:, :, :, None], other=0, eviction_policy=POLICY),)
    MORE: tl.constexpr = 1 if TRAITS.bits & 12 else 0
    SCALE: tl.constexpr = TRAITS.scale
    for plane in tl.static_range(MORE, SCALE):
        at = planes[plane] + (r * RUNS + u) + (ROW * RUNS + RUN)
        tile = tile + (tl.load(at, mask=inside, other=0, eviction_policy=POLICY),)
    if TRAITS.group:
        BLOCKS: tl.constexpr = COLS // TRAITS.size
        SHARE: tl.constexpr = TRAITS.size // 32
        tile = tile + (tl.load(planes[SCALE] + (r * BLOCKS + (u + RUN) // SHARE) + ROW * BLOCKS, mask=inside, other=0),)
    else:
        at = planes[SCALE] + (r * RUNS + u) + (ROW * RUNS + RUN)
        tile = tile + (tl.load(at, mask=inside, other=0),)
    if TRAITS.lowest >= 0:
        at = planes[TRAITS.lowest] + (r * RUNS + u) + (ROW * RUNS + RUN)
        tile = tile + (tl.load(at, mask=inside, other=0),)
    return tile


@triton.jit
def load_below(
    p0, p1, p2, p3, q, rows, below, u, end,
    TRAITS: tl.constexpr, COLS: tl.constexpr, STREAM: tl.constexpr, ROW: tl.constexpr, RUN: tl.constexpr,
    BELOW: tl.constexpr,
):  # fmt: skip
    """`load_rows` of rows q + ROW of a matrix of `rows` rows, or if BELOW of the one that begins `below` rows further
    down; zeros where there is no such row, and from run `end` on."""
    inside = (u + RUN < end) & (q + ROW < rows)
    return load_rows(p0, p1, p2, p3, q + below if BELOW else q, u, inside, TRAITS, COLS, STREAM, ROW, RUN)


@triton.jit
def twice(x, ASM: tl.constexpr):
    """float32 as two equal float16 in a word."""
    if ASM:
        return tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $1, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        return two_of(x.to(tl.float16), ASM)


@triton.jit
def two_of(half, ASM: tl.constexpr):
    """float16 as two equal ones in a word."""
    if ASM:
        return tl.inline_asm_elementwise("mov.b32 $0, {$1, $1};", "=r,h", [half], dtype=tl.int32, is_pure=True, pack=1)
    else:
        return (half.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) * 0x10001


@triton.jit
def byte_values(word, scale, minimum, SIGNED: tl.constexpr, MINIMUM: tl.constexpr, ASM: tl.constexpr):
    """float16 of bytes 0, 2, 1 and 3 of words, each times scale, plus minimum: words of two equal float16.

    A byte b below the exponent of 1024 is 1024 + b; 1024, or 1152 of bytes whose sign has been turned, is subtracted.
    """
    if ASM:
        FLIP: tl.constexpr = "xor.b32 w, $4, 0x80808080;" if SIGNED else "mov.b32 w, $4;"
        LESS: tl.constexpr = "0x64806480" if SIGNED else "0x64006400"
        SCALED: tl.constexpr = (
            "fma.rn.f16x2 a, a, $5, $6; fma.rn.f16x2 b, b, $5, $6;"
            if MINIMUM
            else "mul.rn.f16x2 a, a, $5; mul.rn.f16x2 b, b, $5;"
        )
        CODE: tl.constexpr = (
            "{ .reg .b32 w, a, b, z, m; " + FLIP + " mov.b32 z, 0x64646464; mov.b32 m, " + LESS + ";"
            "prmt.b32 a, w, z, 0x4240; prmt.b32 b, w, z, 0x4341; sub.rn.f16x2 a, a, m; sub.rn.f16x2 b, b, m; "
            + SCALED + " mov.b32 {$0, $1}, a; mov.b32 {$2, $3}, b; }"
        )  # fmt: skip
        return tl.inline_asm_elementwise(
            CODE, "=h,=h,=h,=h,r,r,r", [word, scale, minimum],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        out = ()
        for i in tl.static_range(4):
            AT: tl.constexpr = 8 * (i % 2 * 2 + i // 2)
            q = (word << (24 - AT)) >> 24 if SIGNED else (word >> AT) & 255
            out = out + (scaled(q, scale, minimum, MINIMUM),)
        return out


@triton.jit
def scaled(q, scale, minimum, MINIMUM: tl.constexpr):
    """float16 of int32 times scale plus minimum, words of two equal float16, rounded once."""
    v = q.to(tl.float32) * scale.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    if MINIMUM:
        v += minimum.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return v.to(tl.float16)


@triton.jit
def nibble_values(word, scale, minimum, SIGNED: tl.constexpr, MINIMUM: tl.constexpr, ASM: tl.constexpr):
    """float16 of the low nibbles of bytes 0, 2, 1 and 3 and then of their high nibbles, not lifted.

    A low nibble n below the exponent of 1024 is 1024 + n; a high one 1024 + 16 n, of which a 16th less 64 is exact.
    SIGNED: the nibble's sign is turned on the way, which adds 8.
    """
    if ASM:
        LOW: tl.constexpr = "0x64086408" if SIGNED else "0x64006400"  # bits put in place, and what is subtracted
        HIGH: tl.constexpr = "0x64806480" if SIGNED else "0x64006400"
        BACK: tl.constexpr = "0xD480D480" if SIGNED else "0xD400D400"  # -72, -64
        ONE: tl.constexpr = (
            "fma.rn.f16x2 a, a, $9, $10; fma.rn.f16x2 b, b, $9, $10;"
            "fma.rn.f16x2 c, c, $9, $10; fma.rn.f16x2 d, d, $9, $10;"
            if MINIMUM
            else "mul.rn.f16x2 a, a, $9; mul.rn.f16x2 b, b, $9; mul.rn.f16x2 c, c, $9; mul.rn.f16x2 d, d, $9;"
        )
        CODE: tl.constexpr = (
            "{ .reg .b32 v, a, b, c, d, l, h, s, k; shr.u32 v, $8, 8; mov.b32 l, " + LOW + "; mov.b32 h, " + HIGH + ";"
            "mov.b32 s, 0x2C002C00; mov.b32 k, " + BACK + ";"
            "lop3.b32 a, $8, 0x000F000F, l, 0x6A; lop3.b32 b, v, 0x000F000F, l, 0x6A;"
            "lop3.b32 c, $8, 0x00F000F0, h, 0x6A; lop3.b32 d, v, 0x00F000F0, h, 0x6A;"
            "sub.rn.f16x2 a, a, l; sub.rn.f16x2 b, b, l;"
            "fma.rn.f16x2 c, c, s, k; fma.rn.f16x2 d, d, s, k;"
            + ONE + "mov.b32 {$0, $1}, a; mov.b32 {$2, $3}, b; mov.b32 {$4, $5}, c; mov.b32 {$6, $7}, d; }"
        )  # fmt: skip
        return tl.inline_asm_elementwise(
            CODE, "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r", [word, scale, minimum],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True, pack=1,
        )  # fmt: skip
    else:
        out = ()
        for i in tl.static_range(8):
            AT: tl.constexpr = 8 * (i % 2 * 2 + i // 2 % 2) + i // 4 * 4
            q = (word >> AT) & 15
            if SIGNED:
                q = (q ^ 8) - 8
            out = out + (scaled(q, scale, minimum, MINIMUM),)
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
    """(words of first halves, of second halves, then per group of a run: scale words, then minimum words). Of quants
    without a plane of four bits, the pairs' halves in place of words, and their ones behind all else."""
    if TRAITS.bits == 8:
        return tile[0], tile[1], two_of(tile[2], ASM)
    else:
        if TRAITS.codebook is not None:
            CODEBOOK: tl.constexpr = TRAITS.codebook
            a, b = codebook_bytes(tile[0], CODEBOOK, ASM)
        elif TRAITS.bits == 4:
            a, b = tile[0], tile[0]
        elif TRAITS.bits & 4:
            a, b = quant_words(tile, TRAITS)
        else:
            a, b = tile[TRAITS.pairs].to(tl.int32), (tile[TRAITS.pairs] >> 32).to(tl.int32)
        # Lifted quants stay lifted, and so do products: a scale divided by 16 may be too small for float16.
        out = (a, b)
        if TRAITS.group == 0 and tile[TRAITS.scale].dtype == tl.float16:
            out = out + (two_of(tile[TRAITS.scale], ASM),)
            if TRAITS.minimum:
                out = out + (two_of(tile[TRAITS.lowest], ASM),)
        else:
            scales = unpack_scales(tile, TRAITS, False)
            for i in tl.static_range(len(scales)):
                out = out + (twice(scales[i], ASM),)
        if TRAITS.bits & 13 == 1:
            out = out + (tile[TRAITS.ones],)
        return out


@triton.jit
def low_word(parts, W: tl.constexpr, HALF: tl.constexpr, TRAITS: tl.constexpr):
    """Word W of quants of two or three bits, as `quant_words` gives it. One word at a time: four would be given a
    layout of their own, as no load of four words says theirs."""
    if TRAITS.pair_at >= 2 * W:
        word = (parts[HALF] << (TRAITS.pair_at - 2 * W)) & TRAITS.pair_mask
    else:
        word = (parts[HALF] >> (2 * W - TRAITS.pair_at)) & TRAITS.pair_mask
    if TRAITS.bits & 1:
        word = word | (((parts[len(parts) - 1] >> (W + 4 * HALF)) & 0x01010101) << TRAITS.one_at)
    return word


@triton.jit
def unlift(TRAITS: tl.constexpr):
    """What products of fragments are multiplied by."""
    if TRAITS.bits == 4 and TRAITS.codebook is None:
        return 1.0
    else:
        LESS: tl.constexpr = 0.5**TRAITS.lift
        return LESS


@triton.jit
def fragment(parts, W: tl.constexpr, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """float16 [4, 8, WARPS, h, p, e]: the 8 columns of word W of runs."""
    GROUPS: tl.constexpr = 2 if TRAITS.group == 16 else 1
    SIGNED: tl.constexpr = TRAITS.signed or TRAITS.codebook is not None
    G: tl.constexpr = W // 2 if GROUPS == 2 else 0
    scale = parts[2 + G]
    minimum = parts[2 + GROUPS + G] if TRAITS.minimum else scale
    if TRAITS.bits == 4 and TRAITS.codebook is None:
        a0, a1, a2, a3, b0, b1, b2, b3 = nibble_values(
            word_of(parts[0], W), scale, minimum, SIGNED, TRAITS.minimum, ASM
        )
    elif TRAITS.bits & 12 == 0:
        a0, a1, a2, a3 = byte_values(low_word(parts, W, 0, TRAITS), scale, minimum, SIGNED, TRAITS.minimum, ASM)
        b0, b1, b2, b3 = byte_values(low_word(parts, W, 1, TRAITS), scale, minimum, SIGNED, TRAITS.minimum, ASM)
    else:
        a0, a1, a2, a3 = byte_values(word_of(parts[0], W), scale, minimum, SIGNED, TRAITS.minimum, ASM)
        b0, b1, b2, b3 = byte_values(word_of(parts[1], W), scale, minimum, SIGNED, TRAITS.minimum, ASM)
    even = tl.join(tl.join(a0, b0), tl.join(a2, b2))
    odd = tl.join(tl.join(a1, b1), tl.join(a3, b3))
    return tl.join(even, odd)  # what is joined last lies in one register, as an instruction of these left it


@triton.jit
def together(parts):
    """Tensors of one shape, a power of two of them, as one with an axis of 2 for each bit of their number behind."""
    if len(parts) == 1:
        return parts[0]
    else:
        HALF: tl.constexpr = len(parts) // 2
        joined = ()
        for i in tl.static_range(HALF):
            joined = joined + (tl.join(parts[i], parts[i + HALF]),)
        return together(joined)


@triton.jit
def gated(z, up, GATE: tl.constexpr, ASM: tl.constexpr):
    """act(z) * up times GATED_SCALE, as float16; GATE as of `gating.gated_with`."""
    if GATE == "swiglu_oai":
        return to_half(gated_with(z, up, GATE, ASM) * GATED_SCALE)
    else:
        return to_half(activate(z, GATE == "gelu", ASM) * up * GATED_SCALE)


@triton.jit
def last_one(counters, program, count):
    """Whether this is the last of `count` programs to come here, all of which have stored what it may read then; the
    counter is 0 before and after."""
    tl.debug_barrier()
    last = tl.atomic_add(counters + program, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(counters + program, 0)
    tl.debug_barrier()
    return last
