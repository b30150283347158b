"""The innermost loops: tiles of a weight matrix times one vector of activations, for every format.

`compile_rows(...)` gives a compiled function that computes a range of tiles. It is the part of an operation that a
configuration changes, so it is compiled by itself, once for all operations that multiply such a matrix; the rest of an
operation is compiled once and calls it. Quantized formats multiply bytes (`dot.py`) and scale per block; an offset of
the weights (the quants' zero point, a minimum) is taken out through the block's sum of activations:

    sum_i s(w_i - z) * t*x_i = s*t * (sum_i w_i x_i - z * sum_i x_i)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from kernel_templates import formats
from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import ActivationLayout
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.dot import takes_pairs
from kernel_templates.cpu.emit import Emitter, Value
from kernel_templates.cpu.matrix import planes_of
from kernel_templates.cpu.tiles import plane_bytes
from kernel_templates.cpu.words import fours, sweeps, zero_of_bytes
from kernel_templates.formats.layout import Blocks, Floats, Layout
from kernel_templates.problem import Problem

FLOAT_BLOCK = 32  # columns that a float format's innermost step takes
LINE = 64  # bytes that a prefetch asks for


@dataclass(frozen=True)
class TileShape:
    """How a matrix is walked: everything in it is a searched parameter except the layout and the width.

    `streams`: places of a tile that are read in turn. The hardware prefetcher follows a few bytes ahead in each memory
    page it has seen, so more pages under way mean more loads in flight (22 -> 29 GB/s on two Xeon cores, docs/log.md).
    """

    layout: Layout
    cols: int
    lanes: int
    path: str
    streams: int
    prefetch: int

    @property
    def blocks(self) -> int:
        """Steps in a row."""
        return self.cols // step_size(self.layout)


def step_size(layout: Layout) -> int:
    """Elements of a row that one step of the innermost loop takes."""
    return FLOAT_BLOCK if isinstance(layout, Floats) else layout.size


def activation_of(format_name: str, quantized: str) -> str:
    """The kind of activations a weight format is multiplied with."""
    return quantized if formats.get(format_name).quantized else "f32"


def activations(format_name: str, cols: int, quantized: str, path: str) -> ActivationLayout:
    """What a matrix of that format is multiplied with on a path of the integer dot product."""
    kind = activation_of(format_name, quantized)
    return ActivationLayout(cols, kind, pairs=takes_pairs(path) and kind != "f32")


def key_of(problem: Problem, quantized: str, path: str = "") -> str:
    """A problem's key as far as code depends on it that calls `compile_rows`' loops: formats are the kinds of
    activations that they are multiplied with. path: of the loops, where the code quantizes for them."""
    key = problem.with_formats(lambda name: activation_of(name, quantized)).key
    return f"{key} in pairs" if takes_pairs(path) else key


def compile_rows(shape: TileShape, layout: ActivationLayout, features: frozenset[str]) -> Kernel:
    """void rows(matrix, first, last, x, out, add): tiles first..last-1 of a matrix times x.

    matrix: address of its planes' addresses; x: an activation buffer of that layout; out: float32 [rows], added to if
    `add` is 1, else written.
    """
    block = _block(shape, layout, features)
    blocks, streams, lanes = shape.blocks, shape.streams, shape.lanes
    apart = blocks // streams
    splat, load = simd.splat("f32", lanes), simd.load("f32", lanes)

    def rows(matrix, first, last, x, out, add):
        w0, w1, w2, w3 = planes_of(matrix)
        for tile in range(first, last):
            acc = splat(np.float32(0.0))
            for i in range(apart):
                for stream in range(streams):
                    b = stream * apart + i
                    acc = block(w0, w1, w2, w3, tile * blocks + b, b, x, acc)
            at = out + 4 * lanes * tile
            if add:
                acc = acc + load(at)
            simd.store(at, acc)

    return compile_kernel(rows, f"rows {shape} {layout}", words=6)


def _block(shape: TileShape, layout: ActivationLayout, features: frozenset[str]) -> Callable:
    """intrinsic (w0..w3, index of the block in the planes, its place in the row, x, acc) -> acc plus the block."""
    weights = shape.layout
    vec = simd.Vec("f32", shape.lanes)

    @intrinsic
    def block(typingctx, w0, w1, w2, w3, index, place, x, acc):
        def codegen(context, builder, sig, args):
            e, (*planes, index, place, x, acc) = Emitter(builder, shape.lanes, shape.path, features), args
            acc = Value(builder, acc, "f32", shape.lanes)
            if isinstance(weights, Floats):
                return _dense(e, shape, weights, planes, index, place, x, acc).ir
            return _quantized(e, shape, weights, layout, planes, index, place, x, acc).ir

        return vec(*[types.int64] * 7, vec), codegen

    return block


def ask_ahead(e: Emitter, distance: int, planes, index, sizes: list[int], parts: int = 1) -> Iterator[None]:
    """Ask for the block that lies `distance` bytes of the first plane ahead: a part of it each time this is advanced. A
    core keeps a dozen requests open; one that asks for 4 KB at once waits.

    sizes: bytes of a block in each plane, as far as it is asked for.
    """
    if distance:
        blocks = -(-distance // sizes[0])
        wanted = [(e.at(plane, index, size, blocks * size), size) for plane, size in zip(planes, sizes, strict=False)]
        for part in range(parts):
            for address, size in wanted:
                first, last = (min(size, -(-size // LINE) * i // parts * LINE) for i in (part, part + 1))
                e.prefetch(e.offset(address, first), last - first)
            yield


class _Product:
    """A running integer dot product with one or two planes of activations, of which the upper counts 128 times."""

    def __init__(self, e: Emitter, layout: ActivationLayout):
        self.e, self.layout = e, layout
        self.sums = [e.zeros() for _ in range(layout.planes)]

    def add(self, words: Value, x: ir.Value) -> None:
        """Four unsigned bytes a lane times the activations at x."""
        for plane, acc in enumerate(self.sums):
            at = self.e.builder.add(x, ir.IntType(64)(plane * self.layout.cols))
            self.sums[plane] = self.e.dot4(acc, words, at)

    def total(self) -> Value:
        if len(self.sums) == 1:
            return self.sums[0]
        return (self.sums[0] << 7) + self.sums[1]


def _quantized(
    e: Emitter, shape: TileShape, weights: Blocks, layout: ActivationLayout, planes, index, place, x, acc: Value
) -> Value:
    """A block's integer products with the activations, scaled by the block, or by groups before."""
    lanes, size, sizes = shape.lanes, weights.size, plane_bytes(weights)
    at = {name: e.at(plane, index, lanes * count) for plane, (name, count) in zip(planes, sizes.items(), strict=False)}
    steps = [*sweeps(weights)]
    parts = sum(map(len, steps)) if len(steps) > 1 else 1
    whole = [lanes * count for count in sizes.values()]
    # Where quants have upper bits, those and what lies behind are left to the processor, which foresees them better:
    # 24 instead of 17 GB/s of Q6_K (docs/log.md).
    asked = whole if weights.quants.high is None else whole[:1]
    ahead = ask_ahead(e, shape.prefetch, planes, index, asked, parts)
    products = _products(e, weights, layout, at, e.at(x, place, layout.size * size), ahead)

    def unit(element: int) -> Value:
        """The step of an element's activation."""
        return e.scalar("f32", e.at(x, place, size // 8, layout.scales + 4 * (element // 32)))

    def total(group: int) -> Value:
        """The sum of a group's activations."""
        totals = layout.half_sums if weights.group == 16 else layout.sums
        return e.scalar("i32", e.at(x, place, size // weights.group * 4, totals + 4 * group))

    if weights.subscales is None:
        ((_, product),) = products
        step = unit(0)
        if weights.quants.signed:  # as below: LLVM schedules by the order of loads and broadcasts
            spread = step.splat(lanes)
            zeros = (total(0) * zero_of_bytes(weights.quants)).splat(lanes)
            scale = e.scale(weights.exponent, at["scale"])
            return (product.total() - zeros).f32().fma(scale * spread, acc)
        summed = total(0)
        scale = e.scale(weights.exponent, at["scale"])
        sums = _centered(product, summed, weights)
        if weights.minimum is None:
            return sums.f32().fma(scale * step.splat(lanes), acc)
        minimum = e.load("f16", at["minimum"]).f32()
        acc = sums.f32().fma(scale * step.splat(lanes), acc)
        return minimum.fma((step * summed.f32()).splat(lanes), acc)

    scaled = lowest = e.zeros().f32()
    for group, product in products:
        summed = total(group)
        factor = e.load("i8", at["codes"], lanes * group).i32()
        step_of_group = unit(group * weights.group)
        step = step_of_group.splat(lanes)
        scaled = (_centered(product, summed, weights) * factor).f32().fma(step, scaled)
        if weights.subminimums is not None:
            factor = e.load("i8", at["codes"], lanes * (weights.groups + group)).i32().f32()
            lowest = factor.fma((step_of_group * summed.f32()).splat(lanes), lowest)  # sums are below 2^24: exact
    acc = scaled.fma(e.scale(weights.exponent, at["scale"]), acc)
    if weights.subminimums is None:
        return acc
    return lowest.fma(e.load("f16", at["scale"], 2 * lanes).f32() * -1.0, acc)


def _products(
    e: Emitter,
    weights: Blocks,
    layout: ActivationLayout,
    at: Mapping[str, ir.Value],
    x: ir.Value,
    ahead: Iterator[None],
) -> Iterator[tuple[int, _Product]]:
    """(number of a group, the product of its quants with the activations at x), for a block's groups in turn. ahead:
    advanced before each step."""
    planes = [at[name] for name in ("low", "high") if name in at]
    for number, steps in enumerate(sweeps(weights)):
        if number:
            e.keep_order()
        products: dict[int, _Product] = {}
        for elements in steps:
            next(ahead, None)
            for element, words in zip(elements, fours(e, weights.quants, planes, elements), strict=True):
                group = element // weights.group
                products.setdefault(group, _Product(e, layout)).add(words, e.offset(x, layout.size * element))
        yield from products.items()


def _centered(product: _Product, total: Value, weights: Blocks) -> Value:
    """The product with the quants' bytes, less what counting them from zero adds. total: the activations' sum."""
    zero, sums = zero_of_bytes(weights.quants), product.total()
    return sums - (total * zero).splat(sums.lanes) if zero else sums


def _dense(e: Emitter, shape: TileShape, weights: Floats, planes, index, place, x, acc: Value) -> Value:
    """Float weights: a column of the tile at a time, widened to float32."""
    lanes, size = shape.lanes, weights.nbytes
    column = e.at(planes[0], index, FLOAT_BLOCK * size * lanes)
    next(ask_ahead(e, shape.prefetch, planes, index, [FLOAT_BLOCK * size * lanes]), None)
    for c in range(FLOAT_BLOCK):
        factor = e.scalar("f32", e.at(x, place, 4 * FLOAT_BLOCK, 4 * c)).splat(lanes)
        acc = e.load(weights.kind, column, c * size * lanes).f32().fma(factor, acc)
    return acc
