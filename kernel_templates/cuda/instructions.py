"""What Triton has no word for, or says in many: single instructions of a GPU, each with a twin for the interpreter."""

import triton.language as tl

from kernel_templates.cuda.lazy_triton import triton

LARGEST_HALF = tl.constexpr(65504.0)
"""The largest finite float16."""


@triton.jit
def opaque(i, ASM: tl.constexpr):
    """i, of which the compiler no longer knows that neighbours follow each other: loads then keep the tile's layout,
    one element a thread, instead of one that suits them and has to be converted afterwards."""
    if ASM:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [i], dtype=tl.int32, is_pure=True, pack=1)
    else:
        return i


@triton.jit
def dp4a(a, b, c, ASM: tl.constexpr):
    """c + the sum of four products of signed bytes of a and b; int32."""
    if ASM:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for j in tl.static_range(4):
            c = c + ((a << (24 - 8 * j)) >> 24) * ((b << (24 - 8 * j)) >> 24)
        return c


@triton.jit
def dp4a_unsigned(a, b, c, ASM: tl.constexpr):
    """The same with unsigned bytes in b."""
    if ASM:
        return tl.inline_asm_elementwise(
            "dp4a.s32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for j in tl.static_range(4):
            c = c + ((a << (24 - 8 * j)) >> 24) * ((b >> (8 * j)) & 255)
        return c


@triton.jit
def reciprocal(x, ASM: tl.constexpr):
    """1 / x to an ulp: a division takes ten instructions, and is not needed to round to 16 bits or to gate."""
    if ASM:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def soft_cap(x, CAP: tl.constexpr, ASM: tl.constexpr):
    """CAP tanh(x / CAP), tanh(t) = 1 - 2 / (1 + e^2t). An infinite x becomes NaN: behind the cap nobody would see that
    numbers have overflowed."""
    t = x * (1.0 / CAP)
    return (1.0 - 2.0 * reciprocal(1.0 + tl.exp(2.0 * t), ASM) + (t - t)) * CAP


@triton.jit
def round_to_int(x):
    """Nearest integer, halves to even, for |x| < 2^22: adding 1.5 * 2^23 leaves it in the mantissa's low bits."""
    return (x + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def prefetch(pointers):
    """Ask for what they point to in the L2 cache; not for the interpreter."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [pointers.to(tl.int64)],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def prefetch_block(pointer, size):
    """Ask for `size` bytes, int32, none if negative, in the L2 cache; both multiples of 16. Takes no registers and no
    thread's time but one's. Hopper and later; not for the interpreter."""
    tl.inline_asm_elementwise(
        "{ .reg .pred p, q; .reg .b32 t; mov.u32 t, %tid.x; setp.eq.u32 p, t, 0; setp.gt.and.s32 q, $2, 0, p;"
        " @q cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }", "=r,l,r",
        [pointer.to(tl.int64), size], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def all_asked_for(ASM: tl.constexpr):
    """Every load above is under way before anything below is computed. Without it ptxas, sparing registers, asks for
    some only after it has waited for others: up to four latencies of the second-level cache, one after the other."""
    if ASM:
        tl.inline_asm_elementwise("fence.acq_rel.cta; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def loop_bound(x, ASM: tl.constexpr):
    """x as the bound of a loop: Triton 3.6 cannot interpret a range between tensors, with NumPy 2.4."""
    if ASM:
        return x
    else:
        return x.handle.data.item()


@triton.jit
def to_half(x):
    """float16, what is larger than the largest one made it; NaN stays, so that broken numbers are seen at the end."""
    x = tl.where(x > LARGEST_HALF, LARGEST_HALF, x)
    return tl.where(x < -LARGEST_HALF, -LARGEST_HALF, x).to(tl.float16)
