"""Integer dot products of unsigned weight bytes with signed activations, four at a time.

acc[lane] += sum_{i<4} u8(word[lane] >> 8i) * x[i], with bytes x the operation that NVIDIA calls dp4a and x86 vpdpbusd.
Three ways to compute it, a searched parameter because which is fastest (or exists) depends on the machine:

  generic  shifts and 32-bit multiplies LLVM may pick instructions for, x of bytes; any processor
  madd     two 16-bit multiply-adds (pmaddwd), x of 16 bits: an int32 has the first and the third, another the second
           and the fourth; every x86
  vnni     one instruction, x of bytes; AVX512-VNNI or AVX-VNNI
"""

import functools
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from kernel_templates.cpu.simd import Vec, _broadcast

I32 = ir.IntType(32)
PATHS = ("generic", "madd", "vnni")


def available(features: frozenset[str]) -> tuple[str, ...]:
    """The paths a machine with these LLVM feature names can run."""
    paths = ["generic"]
    if "sse2" in features:
        paths.append("madd")
    if {"avx512vnni", "avxvnni"} & features:
        paths.append("vnni")
    return tuple(paths)


def takes_pairs(path: str) -> bool:
    """Whether activations are pairs of 16 bits instead of bytes."""
    return path == "madd"


@functools.cache
def dot4(path: str, lanes: int, features: frozenset[str]) -> Callable:
    """intrinsic (acc: Vec(i32, lanes), words: Vec(i32, lanes), x, more: int32) -> Vec(i32, lanes). more: the second
    pair where the path takes pairs."""
    vec = Vec("i32", lanes)

    @intrinsic
    def dot(typingctx, acc, words, x, more):
        def codegen(context, builder, sig, args):
            acc, words, *x = args
            return emit_dot4(path, builder, acc, words, x[: 1 + takes_pairs(path)], vec.llvm, features)

        return vec(vec, vec, types.int32, types.int32), codegen

    return dot


def emit_dot4(path: str, builder, acc, words, x: Sequence[ir.Value], vec: ir.VectorType, features: frozenset[str]):
    """Write the operation at `builder`: acc, words of LLVM type `vec`, x one i32, or two where the path takes pairs."""
    ways: dict[str, Callable] = {"generic": _generic, "madd": _madd, "vnni": _vnni}
    return ways[path](builder, acc, words, *x, vec, features)


def _constant(llvm_vec, value):
    return ir.Constant(llvm_vec, [value] * llvm_vec.count)


def _generic(builder, acc, words, x, vec, features):
    for i in range(4):
        byte = builder.lshr(words, _constant(vec, 8 * i)) if i else words
        byte = builder.and_(byte, _constant(vec, 0xFF))
        element = builder.ashr(builder.shl(x, I32(24 - 8 * i)), I32(24))
        acc = builder.add(acc, builder.mul(byte, _broadcast(builder, element, vec)))
    return acc


def _madd(builder, acc, words, even, odd, vec, features):
    width = 512 if "avx512bw" in features else 256 if "avx2" in features else 128
    name = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}[width]
    halves = ir.VectorType(ir.IntType(16), 2 * vec.count)
    pairs = builder.bitcast(words, halves)
    first, second = builder.and_(pairs, _constant(halves, 0xFF)), builder.lshr(pairs, _constant(halves, 8))
    for weights, x in ((first, even), (second, odd)):
        operands = (builder.bitcast(weights, vec), _broadcast(builder, x, vec))
        acc = builder.add(acc, by_register(builder, name, width, 16, operands, vec))
    return acc


def _vnni(builder, acc, words, x, vec, features):
    width = 512 if "avx512vnni" in features and vec.count % 16 == 0 else 256
    operands = (acc, words, _broadcast(builder, x, vec))
    return by_register(builder, f"llvm.x86.avx512.vpdpbusd.{width}", width, 32, operands, vec)


def by_register(builder, name, width, bits, operands, vec):
    """Apply an instruction that knows one register width to a vector of any multiple of it.

    bits: the width of its operands' elements; its result has elements of 32, or of 8 if those have.
    """
    lanes = min(width // 32, vec.count)
    inner = ir.VectorType(ir.IntType(bits), width // bits)
    part_type = ir.VectorType(I32, width // 32)
    fn_type = ir.FunctionType(part_type if bits > 8 else inner, [inner] * len(operands))
    fn = cgutils.get_or_insert_function(builder.module, fn_type, name)
    undefined = ir.Constant(vec, ir.Undefined)
    parts = []
    for first in range(0, vec.count, lanes):
        index = ir.Constant(ir.VectorType(I32, width // 32), list(range(first, first + width // 32)))
        cut = [builder.bitcast(builder.shuffle_vector(o, undefined, index), inner) for o in operands]
        out = builder.call(fn, cut)
        parts.append(out if bits > 8 else builder.bitcast(out, part_type))
    while len(parts) > 1:  # join neighbours: two halves, then two of those, ...
        count = parts[0].type.count * 2
        index = ir.Constant(ir.VectorType(I32, count), list(range(count)))
        parts = [builder.shuffle_vector(a, b, index) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
