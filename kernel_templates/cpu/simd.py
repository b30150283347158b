"""Vectors of any width inside Numba functions: one LLVM vector per Numba value, operators included.

Numba's own autovectorizer decides by itself what becomes SIMD; a kernel template wants to say it. `Vec(kind, lanes)`
is a Numba type backed by `<lanes x kind>`, and LLVM splits a vector wider than the machine's registers by itself, so
`lanes` stays a free tuning parameter. Values live in registers; memory is addressed by plain int64 byte addresses.

Every factory (`load("i32", 64)`) returns an intrinsic for exactly that type, to be called inside `njit`/`cfunc` code:

    load_words = simd.load("i32", 64)
    q = load_words(address)            # Vec(i32, 64)
    low = q & simd_constant            # + - * & | ^ << >> work lane by lane, between vectors of one type
"""

from __future__ import annotations

import functools
import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, register_model
from numba.core.imputils import lower_builtin
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global

KINDS: dict[str, ir.Type] = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "f16": ir.HalfType(),
    "bf16": ir.IntType(16),  # kept as bits: x86 before AVX512-BF16 has no such arithmetic, and f32 is wanted anyway
    "f32": ir.FloatType(),
}
BYTES = {"i8": 1, "i16": 2, "i32": 4, "f16": 2, "bf16": 2, "f32": 4}
I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


class Vec(types.Type):
    """Numba type of a SIMD vector: `lanes` numbers of one `kind` (a key of KINDS)."""

    def __init__(self, kind: str, lanes: int):
        self.kind, self.lanes = kind, lanes
        super().__init__(name=f"Vec({kind}, {lanes})")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(KINDS[self.kind], self.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


# --- operators: both sides of one Vec type, lane by lane ---------------------------------------------------------

_INTEGER = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.and_: "and_", operator.or_: "or_",
    operator.xor: "xor", operator.lshift: "shl", operator.rshift: "lshr",
}  # fmt: skip
_FLOAT = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}


def _install(op):
    class Lanewise(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Vec) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    infer_global(op)(Lanewise)

    @lower_builtin(op, Vec, Vec)
    def lower(context, builder, sig, args):
        table = _FLOAT if sig.return_type.kind.startswith("f") else _INTEGER
        return getattr(builder, table[op])(*args)


for _op in {**_INTEGER, **_FLOAT}:
    _install(_op)


# --- memory ------------------------------------------------------------------------------------------------------


def _pointer(builder, address, llvm_type):
    return builder.inttoptr(address, llvm_type.as_pointer())


@functools.cache
def load(kind: str, lanes: int):
    """address (int64, aligned to one element) -> Vec(kind, lanes)."""
    vec = Vec(kind, lanes)

    @intrinsic
    def load_vec(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.load(_pointer(builder, args[0], vec.llvm), align=BYTES[kind])

        return vec(types.int64), codegen

    return load_vec


@intrinsic
def store(typingctx, address, value):
    """Write a vector to `address` (int64, aligned to one element)."""

    def codegen(context, builder, sig, args):
        vec = sig.args[1]
        builder.store(args[1], _pointer(builder, args[0], vec.llvm), align=BYTES[vec.kind])
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


def _scalar_access(numba_type, llvm_type, size):
    @intrinsic
    def load_scalar(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.load(_pointer(builder, args[0], llvm_type), align=size)

        return numba_type(types.int64), codegen

    @intrinsic
    def store_scalar(typingctx, address, value):
        def codegen(context, builder, sig, args):
            builder.store(args[1], _pointer(builder, args[0], llvm_type), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return load_scalar, store_scalar


load_u8, store_u8 = _scalar_access(types.uint8, ir.IntType(8), 1)
load_f32, store_f32 = _scalar_access(types.float32, F32, 4)
load_i32, store_i32 = _scalar_access(types.int32, I32, 4)
load_i64, store_i64 = _scalar_access(types.int64, I64, 8)


@intrinsic
def load_f16(typingctx, address):
    """The f16 at `address` as float32."""

    def codegen(context, builder, sig, args):
        return builder.fpext(builder.load(_pointer(builder, args[0], ir.HalfType()), align=2), F32)

    return types.float32(types.int64), codegen


@intrinsic
def store_f16(typingctx, address, value):
    """Round a float32 to f16 and write it."""

    def codegen(context, builder, sig, args):
        half = ir.HalfType()
        builder.store(builder.fptrunc(args[1], half), _pointer(builder, args[0], half), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at `address` into all levels; a no-op on machines without the instruction."""

    def codegen(context, builder, sig, args):
        i8p = ir.IntType(8).as_pointer()
        fn = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [i8p, I32, I32, I32]), "llvm.prefetch.p0"
        )
        builder.call(fn, [builder.inttoptr(args[0], i8p), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


# --- making and changing vectors ---------------------------------------------------------------------------------


def _broadcast(builder, scalar, llvm_vec):
    one = builder.insert_element(ir.Constant(llvm_vec, ir.Undefined), scalar, I32(0))
    mask = ir.Constant(ir.VectorType(I32, llvm_vec.count), [0] * llvm_vec.count)
    return builder.shuffle_vector(one, ir.Constant(llvm_vec, ir.Undefined), mask)


@functools.cache
def splat(kind: str, lanes: int):
    """One number (int32 for "i32", float32 for "f32") -> every lane."""
    vec = Vec(kind, lanes)
    scalar = types.int32 if kind == "i32" else types.float32

    @intrinsic
    def splat_vec(typingctx, value):
        def codegen(context, builder, sig, args):
            return _broadcast(builder, args[0], vec.llvm)

        return vec(scalar), codegen

    return splat_vec


@intrinsic
def to_f32(typingctx, value):
    """Lanes of i32, f16 or bf16 as f32 (exact for f16 and bf16)."""
    source, target = value, Vec("f32", value.lanes)

    def codegen(context, builder, sig, args):
        (x,) = args
        if source.kind == "i32":
            return builder.sitofp(x, target.llvm)
        if source.kind == "f16":
            return builder.fpext(x, target.llvm)
        if source.kind == "bf16":
            wide = ir.VectorType(I32, source.lanes)
            shift = ir.Constant(wide, [16] * source.lanes)
            return builder.bitcast(builder.shl(builder.zext(x, wide), shift), target.llvm)
        return x

    return target(source), codegen


@intrinsic
def to_f16(typingctx, value):
    """Lanes of f32 rounded to f16, to nearest even."""
    target = Vec("f16", value.lanes)

    def codegen(context, builder, sig, args):
        return builder.fptrunc(args[0], target.llvm)

    return target(value), codegen


@intrinsic
def keep_first(typingctx, value, count, fill):
    """The first `count` (int64) lanes of an f32 vector, `fill` (float32) in the others."""

    def codegen(context, builder, sig, args):
        vec = sig.args[0]
        wide = ir.VectorType(I64, vec.lanes)
        lane = ir.Constant(wide, list(range(vec.lanes)))
        inside = builder.icmp_signed("<", lane, _broadcast(builder, args[1], wide))
        return builder.select(inside, args[0], _broadcast(builder, args[2], vec.llvm))

    return value(value, types.int64, types.float32), codegen


@intrinsic
def widen(typingctx, value):
    """Lanes of i8, sign-extended to i32."""
    target = Vec("i32", value.lanes)

    def codegen(context, builder, sig, args):
        return builder.sext(args[0], target.llvm)

    return target(value), codegen


@intrinsic
def round_to_i32(typingctx, value):
    """Lanes of f32 to the nearest integer, ties to even."""
    target = Vec("i32", value.lanes)

    def codegen(context, builder, sig, args):
        name = f"llvm.lrint.v{value.lanes}i32.v{value.lanes}f32"  # one instruction, as nearbyint and fptosi are not
        fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(target.llvm, [value.llvm]), name)
        return builder.call(fn, args)

    return target(value), codegen


@intrinsic
def narrow(typingctx, value):
    """Lanes of i32, truncated to i8."""
    target = Vec("i8", value.lanes)

    def codegen(context, builder, sig, args):
        return builder.trunc(args[0], target.llvm)

    return target(value), codegen


@intrinsic
def in_pairs(typingctx, value):
    """Lanes of i32 as i16, of each four in the order 0, 2, 1, 3: as masks give the bytes of a word in pairs."""
    target = Vec("i16", value.lanes)

    def codegen(context, builder, sig, args):
        order = [four + i for four in range(0, value.lanes, 4) for i in (0, 2, 1, 3)]
        index = ir.Constant(ir.VectorType(I32, value.lanes), order)
        turned = builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), index)
        return builder.trunc(turned, target.llvm)

    return target(value), codegen


@intrinsic
def shift_arithmetic(typingctx, value, by):
    """Lanes of i32 shifted right, the sign kept."""
    return value(value, by), lambda context, builder, sig, args: builder.ashr(*args)


@intrinsic
def as_f32_bits(typingctx, value):
    """The bits of i32 lanes read as f32."""
    target = Vec("f32", value.lanes)

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], target.llvm)

    return target(value), codegen


def _llvm(builder, name, vec, operands=1):
    """The LLVM intrinsic `name` over vectors of type `vec`."""
    fn_type = ir.FunctionType(vec.llvm, [vec.llvm] * operands)
    return cgutils.get_or_insert_function(builder.module, fn_type, f"llvm.{name}.v{vec.lanes}{vec.kind}")


def _lanewise(name, operands, doc):
    @intrinsic
    def unary(typingctx, a):
        return a(a), lambda context, builder, sig, args: builder.call(_llvm(builder, name, a), args)

    @intrinsic
    def binary(typingctx, a, b):
        return a(a, b), lambda context, builder, sig, args: builder.call(_llvm(builder, name, a, 2), args)

    @intrinsic
    def ternary(typingctx, a, b, c):
        return a(a, b, c), lambda context, builder, sig, args: builder.call(_llvm(builder, name, a, 3), args)

    fn = {1: unary, 2: binary, 3: ternary}[operands]
    fn.__doc__ = doc
    return fn


fma = _lanewise("fma", 3, "a * b + c with one rounding.")
absolute = _lanewise("fabs", 1, "Lanes without their sign.")


def _chosen(predicate, doc):
    """One of each pair of lanes, by one x86 instruction; maxnum and minnum, which leave NaN out, take three."""

    @intrinsic
    def choose(typingctx, a, b):
        def codegen(context, builder, sig, args):
            return builder.select(builder.fcmp_ordered(predicate, *args), *args)

        return a(a, b), codegen

    choose.__doc__ = doc
    return choose


maximum = _chosen(">", "The larger of each pair of lanes; the second where one of them is NaN.")
minimum = _chosen("<", "The smaller of each pair of lanes; the second where one of them is NaN.")


def _reduction(name, start):
    @intrinsic
    def reduce(typingctx, value):
        scalar = types.float32 if value.kind == "f32" else types.int32
        element = KINDS[value.kind]
        prefix = [] if start is None else [element]

        def codegen(context, builder, sig, args):
            fn_type = ir.FunctionType(element, [*prefix, value.llvm])
            label = f"llvm.vector.reduce.{name}.v{value.lanes}{value.kind}"
            fn = cgutils.get_or_insert_function(builder.module, fn_type, label)
            call = builder.call(fn, [*([] if start is None else [element(start)]), *args])
            if start is not None:
                call.fastmath.add("reassoc")  # a tree of lanes, not a chain of adds
            return call

        return scalar(value), codegen

    return reduce


sum_f32 = _reduction("fadd", 0.0)
sum_i32 = _reduction("add", None)


@intrinsic
def max_f32(typingctx, value):
    """The largest lane of an f32 vector, any if there is NaN among them: by halves, where LLVM's own reduction is a
    chain of all lanes."""

    def codegen(context, builder, sig, args):
        (x,) = args
        while x.type.count > 1:
            half = -(-x.type.count // 2)  # those of an odd count overlap
            low, high = (
                builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, half), list(range(at, at + half))))
                for at in (0, x.type.count - half)
            )
            x = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return builder.extract_element(x, I32(0))

    return types.float32(value), codegen


@intrinsic
def max_magnitude(typingctx, value):
    """The largest lane of an f32 vector without its sign; NaN if there is one."""

    def codegen(context, builder, sig, args):
        bits = ir.VectorType(I32, value.lanes)
        magnitude = builder.and_(builder.bitcast(args[0], bits), ir.Constant(bits, [0x7FFFFFFF] * value.lanes))
        label = f"llvm.vector.reduce.umax.v{value.lanes}i32"  # magnitudes are ordered as their bits, NaN above all
        fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [bits]), label)
        return builder.bitcast(builder.call(fn, [magnitude]), F32)

    return types.float32(value), codegen
