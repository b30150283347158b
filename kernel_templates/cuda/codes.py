"""What stands behind codes: entries of a codebook of 16, and scales that are exponents of two."""

import triton.language as tl

from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def scale_of(stored):
    """Scales as float32: float16, or in a byte e the exponent of 2^(e - 128), E8M0 halved."""
    if stored.dtype == tl.uint8:
        e = stored.to(tl.int32)  # of 0 and 1 the numbers are subnormal, a bit and the one above it
        return tl.maximum((e - 1) << 23, (e + 1) << 21).to(tl.float32, bitcast=True)
    else:
        return stored.to(tl.float32)


@triton.jit
def half_of(words, PART: tl.constexpr):
    """The lower (0) or upper (1) float16 of words, as float32."""
    bits = words >> 16 if PART == 1 else words & 0xFFFF
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def byte_of_word(word, AT: tl.constexpr, BYTES: tl.constexpr):
    """Signed byte AT of words of so many bytes, int32, the sign extended."""
    if AT == BYTES - 1:
        return word >> (8 * AT) if AT > 0 else word
    else:
        return (word << (24 - 8 * AT)) >> 24


@triton.jit
def entry(code, CODEBOOK: tl.constexpr):
    """The entry of codes 0..15 in a codebook of four words, int32."""
    low = tl.where(code < 4, CODEBOOK[0], CODEBOOK[1])
    high = tl.where(code < 12, CODEBOOK[2], CODEBOOK[3])
    return (tl.where(code < 8, low, high) << (24 - 8 * (code & 3))) >> 24


@triton.jit
def codebook_bytes(words, CODEBOOK: tl.constexpr, ASM: tl.constexpr):
    """The entries of the four codes in the lower half of words, and of the four in the upper, the first in the lowest
    byte."""
    # A permutation of bytes knows eight of them by three bits. The fourth bit of a code chooses between two: spread
    # over a byte, which a permutation does with a byte's highest bit if the fourth bit of its selector is set.
    zero = words * 0
    t0, t1 = held(zero + CODEBOOK[0], ASM), held(zero + CODEBOOK[1], ASM)
    t2, t3 = held(zero + CODEBOOK[2], ASM), held(zero + CODEBOOK[3], ASM)
    number = words & 0x77777777
    low = permute_bytes(number, t0, t1, ASM)
    high = permute_bytes(number, t2, t3, ASM)
    first = low ^ (low ^ high) & permute_bytes(zero + 0xD9C8, words << 4, words, ASM)
    low = permute_bytes(number >> 16, t0, t1, ASM)
    high = permute_bytes(number >> 16, t2, t3, ASM)
    return first, low ^ (low ^ high) & permute_bytes(zero + 0xFBEA, words << 4, words, ASM)


@triton.jit
def held(constant, ASM: tl.constexpr):
    """A constant that stays in a register. ptxas would move it there again for every permutation, one instruction in
    ten; it does not where a zero has been added that it takes for a number, a lane's beyond the 32 there are."""
    if ASM:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 lane; mov.u32 lane, %laneid; shr.u32 lane, lane, 5; add.s32 $0, $1, lane; }", "=r,r",
            [constant], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        return constant


@triton.jit
def permute_bytes(selectors, a, b, ASM: tl.constexpr):
    """Bytes 0..3 of a and 4..7 of b by the four selectors 0..7 in the lower half of words, a nibble each; of a selector
    above 8 that byte's highest bit, eight times."""
    if ASM:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, selectors], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        out = selectors * 0
        for j in tl.static_range(4):
            s = selectors >> (4 * j)
            byte = (tl.where(s & 4 == 0, a, b) >> (8 * (s & 3))) << 24
            out = out | ((tl.where(s & 8 == 0, byte, byte >> 7) >> 24) & 255) << (8 * j)
        return out
