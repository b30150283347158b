"""The innermost loops: tiles of a weight matrix times one vector of activations, for every format.

`compile_rows(...)` gives a compiled function that computes a range of tiles. It is the part of an operation that a
configuration changes, so it is compiled by itself, once for all operations that multiply such a matrix; the rest of an
operation is compiled once and calls it. Integer formats multiply bytes (`dot.py`) and scale per block; an offset of the
weights (the 8 of Q4_0, the minimum of Q4_1, ...) is taken out through the block's sum of activations:

    sum_i s(w_i - z) * t*x_i = s*t * (sum_i w_i x_i - z * sum_i x_i)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from kernel_templates import formats
from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import ActivationLayout
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.emit import Emitter, Value
from kernel_templates.cpu.matrix import planes_of

FLOATS = {"F16": ("f16", 2), "BF16": ("bf16", 2), "F32": ("f32", 4)}
FLOAT_BLOCK = 32  # columns that a float format's innermost step takes


@dataclass(frozen=True)
class TileShape:
    """How a matrix is walked: everything in it is a searched parameter except the format and the width.

    `streams`: places of a tile that are read in turn. The hardware prefetcher follows a few bytes ahead in each memory
    page it has seen, so more pages under way mean more loads in flight (22 -> 29 GB/s on two Xeon cores, docs/log.md).
    """

    format: str
    cols: int
    lanes: int
    path: str
    streams: int
    prefetch: int

    @property
    def blocks(self) -> int:
        """Steps in a row."""
        return self.cols // block_size(self.format)


def block_size(format_name: str) -> int:
    """Elements of a row that one step of the innermost loop takes."""
    return FLOAT_BLOCK if format_name in FLOATS else formats.get(format_name).block


def activation_of(format_name: str, quantized: str) -> str:
    """The kind of activations a weight format is multiplied with."""
    return "f32" if format_name in FLOATS else quantized


def compile_rows(shape: TileShape, activation: str, features: frozenset[str]) -> Kernel:
    """void rows(matrix, first, last, x, out, add): tiles first..last-1 of a matrix times x.

    matrix: address of its planes' addresses; x: an activation buffer ("int8" or "int16"; "f32" for float weights);
    out: float32 [rows], added to if `add` is 1, else written.
    """
    block = _block(shape, ActivationLayout(shape.cols, activation), features)
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

    return compile_kernel(rows, f"rows {shape} {activation}", words=6)


def _block(shape: TileShape, layout: ActivationLayout, features: frozenset[str]) -> Callable:
    """intrinsic (w0..w3, index of the block in the planes, its place in the row, x, acc) -> acc plus the block."""
    emit = _dense if shape.format in FLOATS else {"Q4_0": _q4, "Q4_1": _q4, "Q8_0": _q8_0, "Q6_K": _q6_k}[shape.format]
    vec = simd.Vec("f32", shape.lanes)

    @intrinsic
    def block(typingctx, w0, w1, w2, w3, index, place, x, acc):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, shape.lanes, shape.path, features)
            index, place, x, acc = args[4:]
            return emit(e, shape, layout, args[:4], index, place, x, Value(builder, acc, "f32", shape.lanes)).ir

        return vec(*[types.int64] * 7, vec), codegen

    return block


def _prefetch(e: Emitter, shape: TileShape, planes, index, sizes: tuple[int, ...]) -> None:
    """Ask for the block that lies `shape.prefetch` bytes of the first plane ahead, in every plane.

    sizes: bytes of a block in each plane.
    """
    if shape.prefetch:
        blocks = -(-shape.prefetch // sizes[0])
        for plane, size in zip(planes, sizes, strict=False):
            if size:
                e.prefetch(e.at(plane, index, size, blocks * size), size)


class _Product:
    """A running integer dot product with one or two planes of activations; int16's upper plane counts 128 times."""

    def __init__(self, e: Emitter, layout: ActivationLayout):
        self.e, self.layout = e, layout
        self.sums = [e.zeros() for _ in range(2 if layout.kind == "int16" else 1)]

    def add(self, words: Value, x: ir.Value) -> None:
        """Four unsigned bytes a lane times the activations at x."""
        for plane, acc in enumerate(self.sums):
            at = self.e.builder.add(x, ir.IntType(64)(plane * self.layout.cols))
            self.sums[plane] = self.e.dot4(acc, words, at)

    def total(self) -> Value:
        if len(self.sums) == 1:
            return self.sums[0]
        return (self.sums[0] << 7) + self.sums[1]


def _q4(e: Emitter, shape: TileShape, layout: ActivationLayout, planes, index, place, x, acc: Value) -> Value:
    """Q4_0 and Q4_1: word w holds elements 4w.. in its low nibbles and 16+4w.. in its high ones."""
    lanes, size = shape.lanes, 16 * shape.lanes
    quants, here = e.at(planes[0], index, size), e.at(x, place, 32)
    _prefetch(e, shape, planes, index, (size, 2 * lanes, 2 * lanes if shape.format == "Q4_1" else 0))
    product = _Product(e, layout)
    for w in range(4):
        words = e.load("i32", quants, 4 * lanes * w)
        product.add(words & 0x0F0F0F0F, e.at(here, place, 0, 4 * w))
        product.add((words >> 4) & 0x0F0F0F0F, e.at(here, place, 0, 16 + 4 * w))
    unit = e.scalar("f32", e.at(x, place, 4, layout.scales))
    total = e.scalar("i32", e.at(x, place, 4, layout.sums))
    scale = e.load("f16", e.at(planes[1], index, 2 * lanes)).f32()
    sums = product.total()
    if shape.format == "Q4_0":
        return (sums - (total * 8).splat(lanes)).f32().fma(scale * unit.splat(lanes), acc)
    minimum = e.load("f16", e.at(planes[2], index, 2 * lanes)).f32()
    acc = sums.f32().fma(scale * unit.splat(lanes), acc)
    return minimum.fma((unit * total.f32()).splat(lanes), acc)


def _q8_0(e: Emitter, shape: TileShape, layout: ActivationLayout, planes, index, place, x, acc: Value) -> Value:
    lanes, size = shape.lanes, 32 * shape.lanes
    quants = e.at(planes[0], index, size)
    _prefetch(e, shape, planes, index, (size, 2 * lanes))
    product = _Product(e, layout)
    for w in range(8):
        words = e.load("i32", quants, 4 * lanes * w) ^ -0x7F7F7F80  # 0x80808080: a signed byte plus 128 is unsigned
        product.add(words, e.at(x, place, 32, 4 * w))
    unit = e.scalar("f32", e.at(x, place, 4, layout.scales)).splat(lanes)
    offset = (e.scalar("i32", e.at(x, place, 4, layout.sums)) * 128).splat(lanes)
    scale = e.load("f16", e.at(planes[1], index, 2 * lanes)).f32()
    return (product.total() - offset).f32().fma(scale * unit, acc)


def _q6_k(e: Emitter, shape: TileShape, layout: ActivationLayout, planes, index, place, x, acc: Value) -> Value:
    """A super-block is two halves of 128 elements; a half is four quarters of 32 that share 16 low words (a nibble
    each, quarters 0 and 1 the low ones) and 8 high words (two bits each), with an int8 scale per 16 elements."""
    lanes = shape.lanes
    low, high = e.at(planes[0], index, 128 * lanes), e.at(planes[1], index, 64 * lanes)
    sub, here = e.at(planes[2], index, 16 * lanes), e.at(x, place, 256)
    _prefetch(e, shape, planes, index, (128 * lanes, 64 * lanes, 16 * lanes, 2 * lanes))
    total = e.zeros().f32()
    for half in range(2):
        for part in range(2):  # 16 elements of each quarter
            quarters = [_Product(e, layout) for _ in range(4)]
            for w in range(4):
                first = e.load("i32", low, 4 * lanes * (half * 16 + 4 * part + w))
                second = e.load("i32", low, 4 * lanes * (half * 16 + 8 + 4 * part + w))
                bits = e.load("i32", high, 4 * lanes * (half * 8 + 4 * part + w))
                for q, product in enumerate(quarters):
                    nibbles = ((first, second)[q & 1] >> (4 * (q >> 1))) & 0x0F0F0F0F
                    pairs = (bits << 4 if q == 0 else bits << 2 if q == 1 else bits >> (2 * q - 4)) & 0x30303030
                    product.add(nibbles | pairs, e.at(here, place, 0, 128 * half + 32 * q + 16 * part + 4 * w))
            for q, product in enumerate(quarters):
                b = 4 * half + q  # block of 32 activations inside the super-block
                half_sum = e.scalar("i32", e.at(x, place, 64, layout.half_sums + 8 * b + 4 * part))
                factor = e.load("i8", sub, lanes * (half * 8 + 2 * q + part)).i32()
                unit = e.scalar("f32", e.at(x, place, 32, layout.scales + 4 * b)).splat(lanes)
                scaled = (product.total() - (half_sum * 32).splat(lanes)) * factor
                total = scaled.f32().fma(unit, total)
    return total.fma(e.load("f16", e.at(planes[3], index, 2 * lanes)).f32(), acc)


def _dense(e: Emitter, shape: TileShape, layout: ActivationLayout, planes, index, place, x, acc: Value) -> Value:
    """Float weights: a column of the tile at a time, widened to float32."""
    kind, size = FLOATS[shape.format]
    lanes = shape.lanes
    column = e.at(planes[0], index, FLOAT_BLOCK * size * lanes)
    _prefetch(e, shape, planes, index, (FLOAT_BLOCK * size * lanes,))
    for c in range(FLOAT_BLOCK):
        factor = e.scalar("f32", e.at(x, place, 4 * FLOAT_BLOCK, 4 * c)).splat(lanes)
        acc = e.load(kind, column, c * size * lanes).f32().fma(factor, acc)
    return acc
