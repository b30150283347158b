"""The innermost loops: one weight tile times one vector of activations, for every format.

`tile_dot(...)` gives an njit function (w0, w1, w2, w3: plane addresses, tile, x: activation buffer) -> Vec(f32, lanes),
the `lanes` dot products of a tile. Integer formats multiply bytes (`dot.py`) and scale per block; an offset of the
weights (the 8 of Q4_0, the minimum of Q4_1, ...) is taken out through the block's sum of activations:

    sum_i s(w_i - z) * t*x_i = s*t * (sum_i w_i x_i - z * sum_i x_i)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import ActivationLayout
from kernel_templates.cpu.dot import dot4

I32 = np.int32
FLOATS = {"F16": ("f16", 2), "BF16": ("bf16", 2), "F32": ("f32", 4)}


@dataclass(frozen=True)
class TileShape:
    """How a matrix is walked: everything in it is a searched parameter except the format and the width."""

    format: str
    cols: int
    lanes: int
    path: str
    unroll: int
    prefetch: int


@functools.cache
def tile_dot(shape: TileShape, activation: str, features: frozenset[str]) -> Callable:
    """The loop over the blocks of one tile; activation: "int8" or "int16" (float weights read "f32")."""
    if shape.format in FLOATS:
        return _dense(shape)
    layout = ActivationLayout(shape.cols, activation)
    bytes_dot = _bytes_dot(shape, layout, features)
    return {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0, "Q6_K": _q6_k}[shape.format](shape, layout, bytes_dot)


def activation_of(format_name: str, quantized: str) -> str:
    """The kind of activations a weight format is multiplied with."""
    return "f32" if format_name in FLOATS else quantized


def _bytes_dot(shape: TileShape, layout: ActivationLayout, features) -> Callable:
    """njit (acc, words, address of 4 activations) -> acc + their products; scaled by 128 and joined for int16."""
    dot = dot4(shape.path, shape.lanes, features)
    if layout.kind == "int8":

        @njit(forceinline=True)
        def one(high, low, words, x):
            return dot(high, words, simd.load_i32(x)), low

        return one
    cols = shape.cols

    @njit(forceinline=True)
    def two(high, low, words, x):
        return dot(high, words, simd.load_i32(x)), dot(low, words, simd.load_i32(x + cols))

    return two


def _joiner(shape: TileShape, layout: ActivationLayout) -> Callable:
    """njit (high, low) -> the integer dot product of both activation planes."""
    splat = simd.splat("i32", shape.lanes)
    if layout.kind == "int8":
        return njit(forceinline=True)(lambda high, low: high)
    return njit(forceinline=True)(lambda high, low: (high << splat(I32(7))) + low)


def _ahead(shape: TileShape, bytes_per_block: int) -> Callable:
    """njit (address) -> prefetch the quants that come `shape.prefetch` bytes later, a block's worth of lines."""
    distance, lines = shape.prefetch, bytes_per_block // 64

    @njit(forceinline=True)
    def ahead(address):
        if distance:
            for line in range(lines):
                simd.prefetch(address + distance + 64 * line)

    return ahead


def _nibble_block(shape: TileShape, layout: ActivationLayout, bytes_dot) -> Callable:
    """njit (quants of a block, x of a block, start) -> start + the dot product of 32 4-bit weights, 0..15 each.

    Word w of a block holds elements 4w.. in its low nibbles and 16+4w.. in its high ones.
    """
    lanes = shape.lanes
    load, splat, join = simd.load("i32", lanes), simd.splat("i32", lanes), _joiner(shape, layout)

    @njit(forceinline=True)
    def block(quants, x, start):
        mask, four = splat(I32(0x0F0F0F0F)), splat(I32(4))
        high, low = splat(I32(0)), splat(I32(0))
        for w in range(4):
            words = load(quants + 4 * lanes * w)
            high, low = bytes_dot(high, low, words & mask, x + 4 * w)
            high, low = bytes_dot(high, low, (words >> four) & mask, x + 16 + 4 * w)
        return join(high, low) + splat(start)

    return block


def _q4_0(shape: TileShape, layout: ActivationLayout, bytes_dot) -> Callable:
    lanes, blocks, unroll = shape.lanes, shape.cols // 32, shape.unroll
    scales, sums = layout.scales, layout.sums
    splat, load_scale = simd.splat("f32", lanes), simd.load("f16", lanes)
    block, ahead = _nibble_block(shape, layout, bytes_dot), _ahead(shape, 16 * lanes)

    @njit
    def dot(w0, w1, w2, w3, tile, x):
        quants, scale = w0 + tile * blocks * 16 * lanes, w1 + tile * blocks * 2 * lanes
        acc = splat(np.float32(0.0))
        for outer in range(blocks // unroll):
            for inner in range(unroll):
                b = outer * unroll + inner
                ahead(quants + b * 16 * lanes)
                start = I32(-8) * simd.load_i32(x + sums + 4 * b)
                product = simd.to_f32(block(quants + b * 16 * lanes, x + 32 * b, start))
                factor = simd.to_f32(load_scale(scale + b * 2 * lanes)) * splat(simd.load_f32(x + scales + 4 * b))
                acc = simd.fma(product, factor, acc)
        return acc

    return dot


def _q4_1(shape: TileShape, layout: ActivationLayout, bytes_dot) -> Callable:
    lanes, blocks, unroll = shape.lanes, shape.cols // 32, shape.unroll
    scales, sums = layout.scales, layout.sums
    splat, load_scale = simd.splat("f32", lanes), simd.load("f16", lanes)
    block, ahead = _nibble_block(shape, layout, bytes_dot), _ahead(shape, 16 * lanes)

    @njit
    def dot(w0, w1, w2, w3, tile, x):
        quants = w0 + tile * blocks * 16 * lanes
        scale, minimum = w1 + tile * blocks * 2 * lanes, w2 + tile * blocks * 2 * lanes
        acc = splat(np.float32(0.0))
        for outer in range(blocks // unroll):
            for inner in range(unroll):
                b = outer * unroll + inner
                ahead(quants + b * 16 * lanes)
                unit = simd.load_f32(x + scales + 4 * b)
                total = unit * np.float32(simd.load_i32(x + sums + 4 * b))
                product = simd.to_f32(block(quants + b * 16 * lanes, x + 32 * b, I32(0)))
                factor = simd.to_f32(load_scale(scale + b * 2 * lanes)) * splat(unit)
                acc = simd.fma(product, factor, acc)
                acc = simd.fma(simd.to_f32(load_scale(minimum + b * 2 * lanes)), splat(total), acc)
        return acc

    return dot


def _q8_0(shape: TileShape, layout: ActivationLayout, bytes_dot) -> Callable:
    lanes, blocks, unroll = shape.lanes, shape.cols // 32, shape.unroll
    scales, sums = layout.scales, layout.sums
    load, integer, join = simd.load("i32", lanes), simd.splat("i32", lanes), _joiner(shape, layout)
    splat, load_scale = simd.splat("f32", lanes), simd.load("f16", lanes)
    ahead = _ahead(shape, 32 * lanes)

    @njit
    def dot(w0, w1, w2, w3, tile, x):
        quants, scale = w0 + tile * blocks * 32 * lanes, w1 + tile * blocks * 2 * lanes
        flip = integer(I32(-2139062144))  # 0x80808080: a signed byte plus 128 is an unsigned one
        acc = splat(np.float32(0.0))
        for outer in range(blocks // unroll):
            for inner in range(unroll):
                b = outer * unroll + inner
                ahead(quants + b * 32 * lanes)
                high, low = integer(I32(0)), integer(I32(0))
                for w in range(8):
                    words = load(quants + b * 32 * lanes + 4 * lanes * w) ^ flip
                    high, low = bytes_dot(high, low, words, x + 32 * b + 4 * w)
                start = integer(I32(-128) * simd.load_i32(x + sums + 4 * b))
                product = simd.to_f32(join(high, low) + start)
                factor = simd.to_f32(load_scale(scale + b * 2 * lanes)) * splat(simd.load_f32(x + scales + 4 * b))
                acc = simd.fma(product, factor, acc)
        return acc

    return dot


def _q6_k(shape: TileShape, layout: ActivationLayout, bytes_dot) -> Callable:
    """A super-block is two halves of 128 elements; a half is four quarters of 32 that share 16 low words (a nibble each,
    quarters 0 and 1 the low ones) and 8 high words (two bits each), with an int8 scale per 16 elements."""
    lanes, supers = shape.lanes, shape.cols // 256
    scales, half_sums = layout.scales, layout.half_sums
    load, integer, join = simd.load("i32", lanes), simd.splat("i32", lanes), _joiner(shape, layout)
    load_scale, load_sub = simd.load("f16", lanes), simd.load("i8", lanes)
    splat = simd.splat("f32", lanes)
    ahead = _ahead(shape, 192 * lanes)

    @njit(forceinline=True)
    def sixteen(low_at, high_at, x, low_shift, high_shift, start):
        """Four words: 16 elements of one sub-block, their values 0..63 put together from both planes."""
        low_mask, high_mask = integer(I32(0x0F0F0F0F)), integer(I32(0x03030303))
        four = integer(I32(4))
        high, low = integer(I32(0)), integer(I32(0))
        for w in range(4):
            nibbles = (load(low_at + 4 * lanes * w) >> integer(low_shift)) & low_mask
            pairs = (load(high_at + 4 * lanes * w) >> integer(high_shift)) & high_mask
            high, low = bytes_dot(high, low, nibbles | (pairs << four), x + 4 * w)
        return join(high, low) + integer(start)

    @njit
    def dot(w0, w1, w2, w3, tile, x):
        low = w0 + tile * supers * 128 * lanes
        high = w1 + tile * supers * 64 * lanes
        sub = w2 + tile * supers * 16 * lanes
        scale = w3 + tile * supers * 2 * lanes
        acc = splat(np.float32(0.0))
        for s in range(supers):
            ahead(low + s * 128 * lanes)
            total = splat(np.float32(0.0))
            for half in range(2):
                for quarter in range(4):
                    b = s * 8 + half * 4 + quarter  # block of 32 activations
                    low_at = low + (s * 32 + half * 16 + (quarter & 1) * 8) * 4 * lanes
                    high_at = high + (s * 16 + half * 8) * 4 * lanes
                    products = integer(I32(0))
                    for part in range(2):
                        start = I32(-32) * simd.load_i32(x + half_sums + 8 * b + 4 * part)
                        got = sixteen(
                            low_at + 16 * lanes * part,
                            high_at + 16 * lanes * part,
                            x + 32 * b + 16 * part,
                            I32(4 * (quarter >> 1)),
                            I32(2 * quarter),
                            start,
                        )
                        factor = simd.widen(load_sub(sub + (s * 16 + half * 8 + quarter * 2 + part) * lanes))
                        products = products + got * factor
                    total = simd.fma(simd.to_f32(products), splat(simd.load_f32(x + scales + 4 * b)), total)
            acc = simd.fma(total, simd.to_f32(load_scale(scale + s * 2 * lanes)), acc)
        return acc

    return dot


def _dense(shape: TileShape) -> Callable:
    """Float weights: a column of the tile at a time, widened to float32, in four chains of additions."""
    kind, size = FLOATS[shape.format]
    lanes, cols = shape.lanes, shape.cols
    load, splat, ahead = simd.load(kind, lanes), simd.splat("f32", lanes), _ahead(shape, 4 * size * lanes)

    @njit
    def dot(w0, w1, w2, w3, tile, x):
        w = w0 + tile * cols * size * lanes
        zero = splat(np.float32(0.0))
        a, b, c, d = zero, zero, zero, zero
        for i in range(0, cols, 4):
            at = w + i * size * lanes
            ahead(at)
            a = simd.fma(simd.to_f32(load(at)), splat(simd.load_f32(x + 4 * i)), a)
            b = simd.fma(simd.to_f32(load(at + size * lanes)), splat(simd.load_f32(x + 4 * i + 4)), b)
            c = simd.fma(simd.to_f32(load(at + 2 * size * lanes)), splat(simd.load_f32(x + 4 * i + 8)), c)
            d = simd.fma(simd.to_f32(load(at + 3 * size * lanes)), splat(simd.load_f32(x + 4 * i + 12)), d)
        return (a + b) + (c + d)

    return dot
