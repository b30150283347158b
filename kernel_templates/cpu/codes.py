"""Codes in kernels: where they lie, and what stands behind them, entries of a codebook or exponents of two."""

import functools
from collections.abc import Callable

from llvmlite import ir
from numba.core.extending import intrinsic

from kernel_templates.cpu.compile import device_function
from kernel_templates.cpu.dot import by_register
from kernel_templates.cpu.simd import Vec
from kernel_templates.formats.layout import Bits, Places

I8, I32 = ir.IntType(8), ir.IntType(32)
SHUFFLES = {  # feature -> register width, instruction
    "avx512bw": (512, "llvm.x86.avx512.pshuf.b.512"),
    "avx2": (256, "llvm.x86.avx2.pshuf.b"),
    "ssse3": (128, "llvm.x86.ssse3.pshuf.b.128"),
}


@functools.cache
def place(bits: Bits | Places) -> Callable:
    """njit (number) -> (byte of the block, lowest bit in it), as `bits.place`."""
    if isinstance(bits, Places):
        each = bits.each

        @device_function(bits)
        def listed(number):
            return each[number]

        return listed
    at, run, chunk, width = bits.at, bits.run, bits.chunk, bits.width

    @device_function(bits)
    def computed(number):
        return at + number // chunk * run + number % run, number % chunk // run * width

    return computed


@functools.cache
def codebook(entries: tuple[int, ...], lanes: int) -> Callable:
    """intrinsic (words of four codes, 0..15 a byte) -> words of the entries, 0..255, that they number; any processor's
    way."""
    vec = Vec("i32", lanes)

    @intrinsic
    def look_up(typingctx, words):
        def codegen(context, builder, sig, args):
            return emit_codebook(builder, args[0], entries, vec.llvm, frozenset())

        return vec(vec), codegen

    return look_up


@intrinsic
def exponent_scale(typingctx, value):
    """Lanes of i8, exponents e, as f32 2^(e - 128)."""
    target = Vec("f32", value.lanes)
    return target(value), lambda context, builder, sig, args: emit_exponent(builder, args[0], target.llvm)


def emit_codebook(builder, words, entries: tuple[int, ...], vec: ir.VectorType, features: frozenset[str]):
    """Write `codebook` at `builder`, for words of LLVM type `vec`: a shuffle of bytes where the processor has one, else
    choices by the codes' bits."""
    bytes_type = ir.VectorType(I8, 4 * vec.count)
    for width, name in (SHUFFLES[feature] for feature in SHUFFLES if feature in features):
        table = builder.bitcast(ir.Constant(bytes_type, [*entries] * (vec.count // 4)), vec)
        return by_register(builder, name, width, 8, (table, words), vec)
    codes, zero = builder.bitcast(words, bytes_type), _constant(bytes_type, 0)
    level = [_constant(bytes_type, entry) for entry in entries]
    for bit in range(4):
        odd = builder.icmp_unsigned("!=", builder.and_(codes, _constant(bytes_type, 1 << bit)), zero)
        level = [builder.select(odd, b, a) for a, b in zip(level[::2], level[1::2], strict=True)]
    return builder.bitcast(level[0], vec)


def emit_exponent(builder, e, vec: ir.VectorType):
    """Write at `builder`: bytes e -> float32 2^(e - 128), of LLVM type `vec`: E8M0 halved, subnormal for e < 2."""
    wide = ir.VectorType(I32, vec.count)
    e = builder.zext(e, wide)
    small = builder.shl(_constant(wide, 0x00200000), e)
    normal = builder.shl(builder.sub(e, _constant(wide, 1)), _constant(wide, 23))
    return builder.bitcast(builder.select(builder.icmp_unsigned("<", e, _constant(wide, 2)), small, normal), vec)


def _constant(llvm_vec, value):
    return ir.Constant(llvm_vec, [value] * llvm_vec.count)
