"""Some rows of a packed matrix times a few tokens at once, as decode steps multiply one: each word of weights is
decoded in registers and multiplied with every token's activations, so that a few tokens read the weights once.

    sum over groups of  s_x (d c sum_i w_i x_i + (m - d c z) sum_i x_i),   w the quants' bytes, which count from z

d, c, m: a block's scale, the group's subscale, its minimum. A token's record is `many_rows.RowLayout` of `kind`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from kernel_templates.cpu.activations import BLOCK
from kernel_templates.cpu.blocks import ask_ahead
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.dot import takes_pairs
from kernel_templates.cpu.emit import Emitter, Value
from kernel_templates.cpu.matrix import caller
from kernel_templates.cpu.panels import addresses
from kernel_templates.cpu.tiles import plane_bytes
from kernel_templates.cpu.words import fours, sweeps, zero_of_bytes
from kernel_templates.formats.layout import Blocks

I64, F32 = ir.IntType(64), ir.FloatType()


@dataclass(frozen=True)
class ColumnShape:
    """lanes: rows of a packed tile; width: of them that are multiplied at once; tokens: whose sums are in registers;
    path: of the integer dot product; prefetch: bytes of the first plane ahead that weights are asked for."""

    layout: Blocks
    lanes: int
    width: int
    tokens: int
    path: str
    prefetch: int


def kind(path: str) -> str:
    """Of a token's record."""
    return "int16" if takes_pairs(path) else "planes"


def totals(layout: Blocks) -> int:
    """Sums that a block of 32 activations has: those of its halves where 16 weights have a scale of their own."""
    needed = layout.minimum is not None or zero_of_bytes(layout.quants) != 0
    return 0 if not needed else 2 if layout.group == 16 else 1


WORDS = 13
multiply_columns = caller(WORDS)
"""(address of a `compile`d loop, and its arguments) -> None."""


def compile(shape: ColumnShape, features: frozenset[str]) -> Kernel:
    """void columns(planes' addresses, index, row, blocks, x, record, scales_at, sums_at, out, stride).

    index: of the tile's first block in the planes; row: the first in the tile; blocks: of a row; x: the first token's
    record, `record` bytes before the next one's; out: float32, a token's rows every `stride` bytes."""
    emit = _emitter(shape, features)

    def columns(w0, w1, w2, w3, index, row, blocks, x, record, scales_at, sums_at, out, stride):
        emit(w0, w1, w2, w3, index, row, blocks, x, record, scales_at, sums_at, out, stride)

    return compile_kernel(columns, f"columns {shape}", WORDS)


def _emitter(shape: ColumnShape, features: frozenset[str]) -> Callable:
    @intrinsic
    def multiply(typingctx, w0, w1, w2, w3, index, row, blocks, x, record, scales_at, sums_at, out, stride):
        def codegen(context, builder, sig, args):
            emitter = Emitter(builder, shape.width, shape.path, features, shape.lanes)
            _Columns(shape, emitter, args[:4], *args[4:11]).emit(*args[11:])
            return context.get_dummy_value()

        return types.void(*[types.int64] * WORDS), codegen

    return multiply


class _Columns:
    def __init__(self, shape: ColumnShape, e: Emitter, planes, index, row, blocks, x, record, scales_at, sums_at):
        self.shape, self.e, self.builder, self.layout = shape, e, e.builder, shape.layout
        self.index, self.row, self.blocks = index, row, blocks
        self.scales_at, self.sums_at = scales_at, sums_at
        self.planes = dict(zip(plane_bytes(shape.layout), planes, strict=False))
        plane = e.builder.mul(blocks, I64(shape.layout.size))
        self.parts = [I64(0)] if takes_pairs(shape.path) else [I64(0), plane]
        """Where in a token's record a product finds numbers: all, or the upper plane, then the lower one."""
        self.size = 3 - len(self.parts)  # bytes of a number there
        self.tokens = [e.builder.add(x, e.builder.mul(record, I64(t))) for t in range(shape.tokens)]
        self.totals = totals(shape.layout)

    def emit(self, out, stride) -> None:
        b, shape = self.builder, self.shape
        vec = ir.VectorType(F32, shape.width)
        sums = [cgutils.alloca_once(b, vec) for _ in self.tokens]
        for place in sums:
            b.store(ir.Constant(vec, [0.0] * shape.width), place)
        with cgutils.for_range(b, self.blocks) as loop:
            found = self._block(loop.index, [Value(b, b.load(place), "f32", shape.width) for place in sums])
            for value, place in zip(found, sums, strict=True):
                b.store(value.ir, place)
        for t, place in enumerate(sums):
            to = b.inttoptr(b.add(out, b.mul(stride, I64(t))), vec.as_pointer())
            b.store(b.load(place), to, align=4)

    def _block(self, place, sums: list[Value]) -> list[Value]:
        """A block's share for each token."""
        e, b, layout, lanes = self.e, self.builder, self.layout, self.shape.lanes
        index = b.add(self.index, place)
        at = addresses(e, layout, [*self.planes.values()], index, self.row)
        steps = sum(map(len, sweeps(layout)))
        whole = [lanes * size for size in plane_bytes(layout).values()]
        ahead = ask_ahead(e, self.shape.prefetch, [*self.planes.values()], index, whole, steps)
        scale, zero = e.scale(layout.exponent, at["scale"]), zero_of_bytes(layout.quants)
        scaled, lowest = [e.zeros().f32() for _ in sums], [e.zeros().f32() for _ in sums]
        for group, products in self._products(at, place, ahead):
            block, part = group * layout.group // BLOCK, group * layout.group % BLOCK // 16
            code = e.load("i8", at["codes"], lanes * group).i32().f32() if layout.subscales is not None else None
            for t, (product, *lower) in enumerate(products):
                step = self._number(t, self.scales_at, place, block)
                product = ((product << 7) + lower[0] if lower else product).f32()
                if code is None:
                    sums[t] = product.fma(scale * step.splat(e.lanes), sums[t])
                else:
                    scaled[t] = product.fma(code * step.splat(e.lanes), scaled[t])
                if self.totals:
                    number = self.totals * block + (part if self.totals == 2 else 0)
                    total = self._number(t, self.sums_at, place, number).splat(e.lanes)
                    if zero:
                        centered = (scale if code is None else code) * float(-zero)
                        if code is None:
                            sums[t] = centered.fma(total, sums[t])
                        else:
                            scaled[t] = centered.fma(total, scaled[t])
                    if layout.subminimums is not None:
                        own = e.load("i8", at["codes"], lanes * (layout.groups + group)).i32().f32()
                        lowest[t] = own.fma(total, lowest[t])
                    elif layout.minimum is not None:
                        sums[t] = e.load("f16", at["minimum"]).f32().fma(total, sums[t])
        if layout.subscales is not None:
            sums = [part.fma(scale, acc) for part, acc in zip(scaled, sums, strict=True)]
        if layout.subminimums is not None:
            least = e.load("f16", at["scale"], 2 * lanes).f32() * -1.0
            sums = [part.fma(least, acc) for part, acc in zip(lowest, sums, strict=True)]
        return sums

    def _products(self, at, place, ahead: Iterator[None]):
        """(number of a group, of each token the sums of products with each of `parts`). ahead: advanced before each
        step."""
        e, b, layout = self.e, self.builder, self.layout
        planes = [at[name] for name in ("low", "high") if name in at]
        here = [b.add(token, b.mul(place, I64(self.size * layout.size))) for token in self.tokens]
        for steps in sweeps(layout):
            products: dict[int, list[list[Value]]] = {}
            for elements in steps:
                next(ahead, None)
                for element, words in zip(elements, fours(e, layout.quants, planes, elements), strict=True):
                    nothing = [[e.zeros() for _ in self.parts] for _ in self.tokens]
                    made = products.setdefault(element // layout.group, nothing)
                    for t, x in enumerate(here):
                        at = e.offset(x, self.size * element)
                        made[t] = [
                            e.dot4(acc, words, b.add(at, part)) for acc, part in zip(made[t], self.parts, strict=True)
                        ]
            yield from products.items()

    def _number(self, token: int, at, place, number: int) -> Value:
        """A float32 of those that a block of the weights has `size / 32` times `totals`, or once, of."""
        each = self.layout.size // BLOCK * (self.totals if at is self.sums_at else 1)
        address = self.builder.add(self.builder.add(self.tokens[token], at), self.builder.mul(place, I64(4 * each)))
        return self.e.scalar("f32", address, 4 * number)
