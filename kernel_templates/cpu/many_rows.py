"""Activations of many tokens as the products with many tokens read them: a record for each token.

    int16  whole numbers, x ~ s*q with q in [-16256, 16256] and s = max|x| / 16256 for each block of 32; behind them the
           scales, and where weights have minimums, s * sum(q) of each block, or of each half of it
    planes the same numbers as two planes of int8 behind each other, x ~ s*(128*high + low), in order
    f32    x itself

Whole numbers lie in pairs as a panel's weights do: of four columns, the first and the third, then the second and the
fourth. What is multiplied is what decode steps multiply (`activations.py`), and as exactly.
"""

from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba.core.extending import intrinsic

from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import BLOCK, LIMIT
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.matrix import caller

LINE, PAGE = 64, 4096
LARGEST = np.float32(LIMIT["int16"])


@dataclass(frozen=True)
class RowLayout:
    """Where in a token's record its numbers (at 0), scales and sums lie, in bytes; totals: sums of a block, 0 to 2."""

    cols: int
    kind: str
    totals: int = 0

    @property
    def scales(self) -> int:
        return 2 * self.cols

    @property
    def sums(self) -> int:
        return self.scales + 4 * (self.cols // BLOCK)

    @property
    def bytes(self) -> int:
        """Of a record: whole cache lines, and no multiple of a page, where neighbours would share places in a cache."""
        used = 4 * self.cols if self.kind == "f32" else self.sums + 4 * self.totals * (self.cols // BLOCK)
        lines = -(-used // LINE)
        return LINE * (lines if LINE * lines % PAGE else lines + 1)


WORDS = 5
write = caller(WORDS)
"""(address of a `compile`d loop, and its arguments) -> None."""


def compile(kind: str, totals: int) -> Kernel:
    """void write(x, out, cols, scales, sums): x: address of float32 [cols]; out: of a record, in which scales and sums
    lie at these bytes."""
    load, splat = simd.load("f32", BLOCK), simd.splat("f32", BLOCK)
    inverse, integer, planes = np.float32(1.0) / LARGEST, simd.splat("i32", BLOCK), kind == "planes"

    def copy_row(x, out, cols, scales, sums):
        for i in range(0, 4 * cols, 4 * BLOCK):
            simd.store(out + i, load(x + i))

    def quantize_row(x, out, cols, scales, sums):
        bias, seven = integer(np.int32(64)), integer(np.int32(7))
        for b in range(cols // BLOCK):
            v = load(x + 4 * BLOCK * b)
            largest = simd.max_magnitude(v)
            step = largest * inverse
            factor = splat(LARGEST / largest if largest > np.float32(1e-30) else np.float32(0.0))
            q = simd.round_to_i32(v * factor)
            if planes:
                high = simd.shift_arithmetic(q + bias, seven)
                simd.store(out + BLOCK * b, simd.narrow(high))
                simd.store(out + cols + BLOCK * b, simd.narrow(q - (high << seven)))
            else:
                simd.store(out + 2 * BLOCK * b, simd.in_pairs(q))
            simd.store_f32(out + scales + 4 * b, step)
            if totals == 1:
                simd.store_f32(out + sums + 4 * b, step * np.float32(simd.sum_i32(q)))
            if totals == 2:
                simd.store_f32(out + sums + 8 * b, step * np.float32(simd.sum_i32(_low_half(q))))
                simd.store_f32(out + sums + 8 * b + 4, step * np.float32(simd.sum_i32(_high_half(q))))

    return compile_kernel(copy_row if kind == "f32" else quantize_row, f"write row {kind} {totals}", WORDS)


def _half(first: bool):
    @intrinsic
    def half(typingctx, value):
        target = simd.Vec("i32", value.lanes // 2)

        def codegen(context, builder, sig, args):
            start = 0 if first else target.lanes
            index = ir.Constant(ir.VectorType(ir.IntType(32), target.lanes), [*range(start, start + target.lanes)])
            return builder.shuffle_vector(args[0], ir.Constant(args[0].type, ir.Undefined), index)

        return target(value), codegen

    return half


_low_half, _high_half = _half(True), _half(False)
