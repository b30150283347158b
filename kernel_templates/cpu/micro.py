"""The innermost loop of products with many tokens: some rows of a panel times some tokens, all sums in registers.

    int16  sum over blocks of 32 columns of  s_x s_w sum_i w_i x_i  (+ s_x m_w sum_i x_i),  w and x whole numbers
    f32    sum_i w_i x_i

A panel (`panels.py`) holds weights as pairs of int16 or as float32, a vector of rows for each pair or column; whole
numbers are multiplied two columns at a time (vpdpwssd: 32 products an instruction where an FMA of float32 makes 16) and
scaled once a block of 32. A row of activations is `many_rows.RowLayout`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from kernel_templates.cpu.activations import BLOCK
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.matrix import caller
from kernel_templates.cpu.simd import _broadcast

I16, I32, I64, F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
PAIRS = BLOCK // 2


@dataclass(frozen=True)
class MicroShape:
    """kind: of the numbers, "int16" or "f32"; width: rows of a panel; tokens: whose sums are in registers at once;
    path: instructions of whole numbers, as of `dot.PATHS`; minimums: of a block of 32 weights, 0 to 2."""

    kind: str
    width: int
    tokens: int
    path: str = ""
    minimums: int = 0


def register_lanes(path: str, features: frozenset[str]) -> int:
    """Numbers of 32 bits in the widest register that has the instructions."""
    if {"vnni": "avx512vnni", "madd": "avx512bw"}.get(path, "avx512f") in features:
        return 16
    return 8 if "avx2" in features else 4


WORDS = 11
multiply = caller(WORDS)
"""(address of a `compile`d loop, and its arguments) -> None."""


def compile(shape: MicroShape, features: frozenset[str]) -> Kernel:
    """void micro(panel, scales, x, record, scales_at, sums_at, block, blocks, out, stride, add).

    panel, scales: addresses as of `panels`; x: the first token's record, `record` bytes before the next one's, in which
    scales and sums lie at scales_at and sums_at; block: the one of the panel's first column in a record; blocks: of the
    panel; out: float32, a token's rows every `stride` bytes, added to if `add` is 1, else written."""
    emit = _emitter(shape, features)

    def micro(panel, scales, x, record, scales_at, sums_at, block, blocks, out, stride, add):
        emit(panel, scales, x, record, scales_at, sums_at, block, blocks, out, stride, add)

    return compile_kernel(micro, f"micro {shape}", WORDS)


def _emitter(shape: MicroShape, features: frozenset[str]) -> Callable:
    @intrinsic
    def multiply(typingctx, panel, scales, x, record, scales_at, sums_at, block, blocks, out, stride, add):
        def codegen(context, builder, sig, args):
            _Micro(shape, features, builder).emit(*args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * WORDS), codegen

    return multiply


class _Micro:
    def __init__(self, shape: MicroShape, features: frozenset[str], builder: ir.IRBuilder):
        self.shape, self.builder = shape, builder
        self.lanes = min(register_lanes(shape.path, features), shape.width)
        self.registers = shape.width // self.lanes
        self.ints, self.floats = ir.VectorType(I32, self.lanes), ir.VectorType(F32, self.lanes)
        self.cells = [(t, r) for t in range(shape.tokens) for r in range(self.registers)]

    def emit(self, panel, scales, x, record, scales_at, sums_at, block, blocks, out, stride, add) -> None:
        b, shape = self.builder, self.shape
        tokens = [b.add(x, b.mul(record, I64(t))) for t in range(shape.tokens)]
        sums = {cell: cgutils.alloca_once(b, self.floats) for cell in self.cells}
        places = {
            (t, r): self._at(b.add(out, b.mul(stride, I64(t))), 4 * self.lanes * r, self.floats) for t, r in self.cells
        }
        with b.if_else(b.icmp_signed("!=", add, I64(0))) as (adding, writing):
            with adding:
                for cell in self.cells:
                    b.store(b.load(places[cell], align=4), sums[cell])
            with writing:
                for cell in self.cells:
                    b.store(ir.Constant(self.floats, [0.0] * self.lanes), sums[cell])
        with cgutils.for_range(b, blocks) as loop:
            if shape.kind == "int16":
                self._whole_numbers(panel, scales, tokens, scales_at, sums_at, block, loop.index, sums)
            else:
                self._floats(panel, tokens, block, loop.index, sums)
        for cell in self.cells:
            b.store(b.load(sums[cell]), places[cell], align=4)

    def _whole_numbers(self, panel, scales, tokens, scales_at, sums_at, block, index, sums) -> None:
        b, shape = self.builder, self.shape
        width, lanes = shape.width, self.lanes
        zero = ir.Constant(self.ints, [0] * lanes)
        acc = dict.fromkeys(self.cells, zero)
        weights = b.add(panel, b.mul(index, I64(PAIRS * 4 * width)))
        place = b.add(block, index)
        numbers = b.mul(place, I64(2 * BLOCK))
        for pair in range(PAIRS):
            w = [self._load(weights, 4 * (pair * width + lanes * r), self.ints) for r in range(self.registers)]
            for t in range(shape.tokens):
                two = _broadcast(b, self._load(b.add(tokens[t], numbers), 4 * pair, I32), self.ints)
                for r in range(self.registers):
                    acc[t, r] = self._dot2(acc[t, r], w[r], two)
        steps = b.add(scales_at, b.mul(place, I64(4)))
        totals = b.add(sums_at, b.mul(place, I64(4 * shape.minimums)))
        scale = b.add(scales, b.mul(index, I64(4 * width * (1 + shape.minimums))))
        for r in range(self.registers):
            d = self._load(scale, 4 * lanes * r, self.floats)
            lowest = [self._load(scale, 4 * (width * (1 + n) + lanes * r), self.floats) for n in range(shape.minimums)]
            for t in range(shape.tokens):
                step = _broadcast(b, self._load(b.add(tokens[t], steps), 0, F32), self.floats)
                total = self._fma(b.sitofp(acc[t, r], self.floats), b.fmul(d, step), b.load(sums[t, r]))
                for n, m in enumerate(lowest):
                    s = _broadcast(b, self._load(b.add(tokens[t], totals), 4 * n, F32), self.floats)
                    total = self._fma(m, s, total)
                b.store(total, sums[t, r])

    def _floats(self, panel, tokens, block, index, sums) -> None:
        b, shape = self.builder, self.shape
        width, lanes = shape.width, self.lanes
        weights = b.add(panel, b.mul(index, I64(BLOCK * 4 * width)))
        numbers = b.mul(b.add(block, index), I64(4 * BLOCK))
        acc = {cell: b.load(sums[cell]) for cell in self.cells}
        for column in range(BLOCK):
            w = [self._load(weights, 4 * (column * width + lanes * r), self.floats) for r in range(self.registers)]
            for t in range(shape.tokens):
                one = _broadcast(b, self._load(b.add(tokens[t], numbers), 4 * column, F32), self.floats)
                for r in range(self.registers):
                    acc[t, r] = self._fma(w[r], one, acc[t, r])
        for cell in self.cells:
            b.store(acc[cell], sums[cell])

    def _dot2(self, acc, w, x):
        """acc + both int16 of each lane of w times those of x."""
        b, lanes = self.builder, self.lanes
        if self.shape.path == "vnni":
            return self._call(f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", self.ints, acc, w, x)
        if self.shape.path == "madd":
            name = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}[lanes]
            halves = ir.VectorType(I16, 2 * lanes)
            return b.add(acc, self._call(f"llvm.x86.{name}", self.ints, b.bitcast(w, halves), b.bitcast(x, halves)))
        half = ir.Constant(self.ints, [16] * lanes)
        low = b.mul(b.ashr(b.shl(w, half), half), b.ashr(b.shl(x, half), half))
        return b.add(acc, b.add(low, b.mul(b.ashr(w, half), b.ashr(x, half))))

    def _fma(self, a, b, c):
        return self._call(f"llvm.fma.v{self.lanes}f32", self.floats, a, b, c)

    def _call(self, name, result, *operands):
        fn_type = ir.FunctionType(result, [operand.type for operand in operands])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, fn_type, name), operands)

    def _at(self, address, offset, kind):
        return self.builder.inttoptr(self.builder.add(address, I64(offset)), kind.as_pointer())

    def _load(self, address, offset, kind):
        return self.builder.load(self._at(address, offset, kind), align=4)
