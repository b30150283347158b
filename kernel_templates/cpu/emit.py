"""Vectors while LLVM code is being written: `simd.py`'s operations for the inside of an intrinsic.

An innermost loop of forty operations is emitted by a plain Python function in one go; numba types and lowers only the
loops around it, which makes a kernel compile about twice as fast as the same written statement by statement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llvmlite import ir
from numba.core import cgutils

from kernel_templates.cpu.codes import emit_codebook, emit_exponent
from kernel_templates.cpu.dot import emit_dot4, takes_pairs
from kernel_templates.cpu.simd import BYTES, KINDS, Vec, _broadcast

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True)
class Value:
    """A vector (or with `lanes` 0 a scalar) of a kind of `simd.KINDS` in code under construction. Operators work lane
    by lane; a Python number on the right stands for itself in every lane."""

    builder: ir.IRBuilder
    ir: ir.Value
    kind: str
    lanes: int

    def _like(self, value: ir.Value) -> Value:
        return Value(self.builder, value, self.kind, self.lanes)

    def _operand(self, other) -> ir.Value:
        if isinstance(other, Value):
            return other.ir
        element = KINDS[self.kind]
        return ir.Constant(ir.VectorType(element, self.lanes), [other] * self.lanes) if self.lanes else element(other)

    def _operate(self, integer: str, floating: str, other) -> Value:
        name = floating if self.kind.startswith("f") else integer
        return self._like(getattr(self.builder, name)(self.ir, self._operand(other)))

    def __add__(self, other) -> Value:
        return self._operate("add", "fadd", other)

    def __sub__(self, other) -> Value:
        return self._operate("sub", "fsub", other)

    def __mul__(self, other) -> Value:
        return self._operate("mul", "fmul", other)

    def __and__(self, other) -> Value:
        return self._like(self.builder.and_(self.ir, self._operand(other)))

    def __or__(self, other) -> Value:
        return self._like(self.builder.or_(self.ir, self._operand(other)))

    def __xor__(self, other) -> Value:
        return self._like(self.builder.xor(self.ir, self._operand(other)))

    def __lshift__(self, by: int) -> Value:
        return self._like(self.builder.shl(self.ir, self._operand(by)))

    def __rshift__(self, by: int) -> Value:
        """Zeros come in from above."""
        return self._like(self.builder.lshr(self.ir, self._operand(by)))

    def f32(self) -> Value:
        """Exact for f16, bf16 and i8; i32 rounds to nearest."""
        b, target = self.builder, ir.VectorType(KINDS["f32"], self.lanes) if self.lanes else KINDS["f32"]
        if self.kind in ("i32", "i8"):
            out = b.sitofp(self.ir, target)
        elif self.kind == "f16":
            out = b.fpext(self.ir, target)
        elif self.kind == "bf16":
            wide = ir.VectorType(I32, self.lanes)
            out = b.bitcast(b.shl(b.zext(self.ir, wide), ir.Constant(wide, [16] * self.lanes)), target)
        else:
            out = self.ir
        return Value(b, out, "f32", self.lanes)

    def i32(self) -> Value:
        """i8, the sign kept."""
        return Value(self.builder, self.builder.sext(self.ir, ir.VectorType(I32, self.lanes)), "i32", self.lanes)

    def fma(self, factor: Value, summand: Value) -> Value:
        """self * factor + summand, rounded once."""
        vec = Vec(self.kind, self.lanes).llvm
        fn_type = ir.FunctionType(vec, [vec] * 3)
        fn = cgutils.get_or_insert_function(self.builder.module, fn_type, f"llvm.fma.v{self.lanes}{self.kind}")
        return self._like(self.builder.call(fn, [self.ir, factor.ir, summand.ir]))

    def splat(self, lanes: int) -> Value:
        """A scalar in every lane."""
        return Value(self.builder, _broadcast(self.builder, self.ir, Vec(self.kind, lanes).llvm), self.kind, lanes)


@dataclass(frozen=True)
class Emitter:
    """Where code is being written, and for which vectors: `lanes` wide, integer products by `path`. interleaved: rows
    of a tile, of which a vector may hold some; 0 where it holds them all."""

    builder: ir.IRBuilder
    lanes: int
    path: str
    features: frozenset[str]
    interleaved: int = 0

    def at(self, base: ir.Value, index: ir.Value, stride: int, offset: int = 0) -> ir.Value:
        """base + index * stride + offset: an int64 address."""
        b = self.builder
        return b.add(base, b.add(b.mul(index, I64(stride)), I64(offset)))

    def offset(self, address: ir.Value, nbytes: int) -> ir.Value:
        return self.builder.add(address, I64(nbytes))

    def load(self, kind: str, address: ir.Value, offset: int = 0) -> Value:
        """A vector of `lanes` elements."""
        return self._load(kind, self.lanes, address, offset)

    def scalar(self, kind: str, address: ir.Value, offset: int = 0) -> Value:
        return self._load(kind, 0, address, offset)

    def store(self, value: ir.Value, address: ir.Value, align: int) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=align)

    def keep_order(self) -> None:
        """No load of what follows moves before this: LLVM would load all that a long block reads at its beginning, and
        put the registers that it lacks on the stack."""
        self.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)

    def zeros(self) -> Value:
        return Value(self.builder, ir.Constant(Vec("i32", self.lanes).llvm, [0] * self.lanes), "i32", self.lanes)

    def dot4(self, acc: Value, words: Value, x: ir.Value) -> Value:
        """acc + unsigned bytes of `words` times the four activations at address x, bytes or pairs as the path takes
        them."""
        four = [self.scalar("i32", x, at).ir for at in ((0, 4) if takes_pairs(self.path) else (0,))]
        vec = Vec("i32", self.lanes).llvm
        out = emit_dot4(self.path, self.builder, acc.ir, words.ir, four, vec, self.features)
        return Value(self.builder, out, "i32", self.lanes)

    def codebook(self, words: Value, entries: tuple[int, ...]) -> Value:
        """Words of four codes, 0..15 a byte, as words of the entries, 0..255, that they number."""
        vec = Vec("i32", self.lanes).llvm
        return replace(words, ir=emit_codebook(self.builder, words.ir, entries, vec, self.features))

    def scale(self, exponent: bool, address: ir.Value) -> Value:
        """Scales, float16 or exponents in a byte each, as f32."""
        if not exponent:
            return self.load("f16", address).f32()
        found = emit_exponent(self.builder, self.load("i8", address).ir, Vec("f32", self.lanes).llvm)
        return Value(self.builder, found, "f32", self.lanes)

    def prefetch(self, address: ir.Value, nbytes: int) -> None:
        """Ask for the cache lines of `nbytes` at `address`."""
        pointer = I8.as_pointer()
        fn_type = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        fn = cgutils.get_or_insert_function(self.builder.module, fn_type, "llvm.prefetch.p0")
        for line in range(0, nbytes, 64):
            here = self.builder.inttoptr(self.builder.add(address, I64(line)), pointer)
            self.builder.call(fn, [here, I32(0), I32(3), I32(1)])

    def _load(self, kind: str, lanes: int, address: ir.Value, offset: int) -> Value:
        b, target = self.builder, Vec(kind, lanes).llvm if lanes else KINDS[kind]
        pointer = b.inttoptr(b.add(address, I64(offset)), target.as_pointer())
        return Value(b, b.load(pointer, align=BYTES[kind]), kind, lanes)
