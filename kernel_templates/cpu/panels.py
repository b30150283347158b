"""Panels: a few rows of a packed matrix and some of their columns, decoded once for all tokens of a product.

A panel is small enough for a core's nearest caches. By blocks of 32 columns, `width` rows side by side:

    int16  pairs of whole numbers, quants less their zero point times the subscales: of four columns the first and the
           third, then the second and the fourth, as masks give them; beside them a block's scale and its minimums (two
           where they are for 16 weights), float32
    f32    the weights themselves, column by column

Products of int16 fit an int32: of Q6_K 32 * 16256 * 32 * 128 < 2^31, and no format has larger numbers.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from kernel_templates.cpu import machine, simd
from kernel_templates.cpu.activations import BLOCK
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.decode_tiles import tile_scales, tile_words
from kernel_templates.cpu.emit import Emitter, Value
from kernel_templates.cpu.matrix import caller
from kernel_templates.cpu.tiles import plane_bytes
from kernel_templates.cpu.words import fours, sweeps, zero_of_bytes
from kernel_templates.formats.layout import Blocks, Floats, Layout

I32, I16, I64 = np.int32, ir.IntType(16), ir.IntType(64)


def minimums(layout: Layout) -> int:
    """Of a block of 32 weights."""
    if isinstance(layout, Floats) or layout.minimum is None:
        return 0
    return max(1, BLOCK // layout.group) if layout.subminimums is not None else 1


def panel_bytes(layout: Layout, kind: str, width: int, columns: int) -> tuple[int, int]:
    """Of the numbers, and of the scales and minimums beside them."""
    if kind == "f32":
        return 4 * width * columns, 0
    return 2 * width * columns, 4 * width * (1 + minimums(layout)) * (columns // BLOCK)


def step_of(layout: Layout) -> int:
    """Columns that a panel has a multiple of."""
    return BLOCK if isinstance(layout, Floats) else layout.size


WORDS = 11
fill = caller(WORDS)
"""(address of a `compile`d loop, and its arguments) -> None."""


def compile(layout: Layout, kind: str, lanes: int, width: int) -> Kernel:
    """void fill(planes' addresses, index, row, steps, numbers, scales, tiles, per_row).

    lanes: rows of the packed tiles; width: rows of a panel, a part of a tile or several whole ones; index: the panel's
    first step in the planes, row: its first in its tile; steps: of `step_of` columns each; numbers, scales: addresses
    of what is written; tiles: that the panel's rows lie in; per_row: steps of a whole row."""
    some = min(width, lanes)
    if isinstance(layout, Floats):
        fill_tile = _floats(layout, lanes, some, width)
    else:
        fill_tile = (_numbers if kind == "int16" else _expanded)(layout, lanes, some, width)
    beside = 4 * some  # bytes from a tile's numbers to the next's, and its scales: a row has a float or two int16

    def fill_panel(w0, w1, w2, w3, index, row, steps, numbers, scales, tiles, per_row):
        for t in range(tiles):
            fill_tile(w0, w1, w2, w3, index + t * per_row, row, steps, numbers + beside * t, scales + beside * t)

    return compile_kernel(fill_panel, f"panel {layout} {kind} {lanes} {width}", WORDS)


def _floats(layout: Floats, lanes: int, some: int, width: int) -> Callable:
    """njit (planes' addresses, index, row, steps, numbers, scales) -> None: `some` rows of one tile, of `width`."""
    size, load = layout.nbytes, simd.load(layout.kind, some)

    @device_function(layout, lanes, some, width)
    def fill_floats(w0, w1, w2, w3, index, row, steps, numbers, scales):
        for c in range(BLOCK * steps):
            value = load(w0 + ((index * BLOCK + c) * lanes + row) * size)
            simd.store(numbers + 4 * width * c, simd.to_f32(value))

    return fill_floats


def _expanded(layout: Blocks, lanes: int, some: int, width: int) -> Callable:
    size, group, integer = layout.size, layout.group, simd.splat("i32", some)
    words, factors = tile_words(layout, lanes, some), tile_scales(layout, lanes, some)

    @device_function(layout, lanes, some, width)
    def fill_expanded(w0, w1, w2, w3, index, row, steps, numbers, scales):
        for b in range(steps):
            for g in range(size // group):
                scale, offset = factors(w0, w1, w2, w3, index + b, g, row)
                for element in range(g * group, (g + 1) * group, 4):
                    four = words(w0, w1, index + b, element, row)
                    for i in range(4):
                        byte = (four >> integer(I32(8 * i))) & integer(I32(0xFF))
                        value = simd.fma(simd.to_f32(byte), scale, offset)
                        simd.store(numbers + 4 * width * (size * b + element + i), value)

    return fill_expanded


def _numbers(layout: Blocks, lanes: int, some: int, width: int) -> Callable:
    emit, size = _block(layout, lanes, some, width), layout.size
    numbers_bytes, scales_bytes = 2 * width * size, 4 * width * (1 + minimums(layout)) * (size // BLOCK)

    @device_function(layout, lanes, some, width)
    def fill_numbers(w0, w1, w2, w3, index, row, steps, numbers, scales):
        for b in range(steps):
            emit(w0, w1, w2, w3, index + b, row, numbers + numbers_bytes * b, scales + scales_bytes * b)

    return fill_numbers


def _block(layout: Blocks, lanes: int, some: int, width: int) -> Callable:
    """intrinsic (planes' addresses, index of a block, row, numbers, scales: of it) -> None."""

    @intrinsic
    def block(typingctx, w0, w1, w2, w3, index, row, numbers, scales):
        def codegen(context, builder, sig, args):
            e = Emitter(builder, some, "", machine.features(), lanes)
            at = addresses(e, layout, args[:4], args[4], args[5])
            _emit_numbers(e, layout, at, args[6], width)
            _emit_scales(e, layout, at, args[7], width)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return block


def addresses(e: Emitter, layout: Blocks, planes: Sequence[ir.Value], index: ir.Value, row: ir.Value) -> dict:
    """Where a block lies in each of its planes, by their names, from a row of the tile on."""
    wide = {"low": 4, "high": 4, "codes": 1, "minimum": 2, "scale": 1 if layout.exponent else 2}
    sizes = plane_bytes(layout)
    return {
        name: e.builder.add(e.at(plane, index, e.interleaved * size), e.builder.mul(row, I64(wide[name])))
        for plane, (name, size) in zip(planes, sizes.items(), strict=False)
    }


def _emit_numbers(e: Emitter, layout: Blocks, at: Mapping[str, ir.Value], out: ir.Value, width: int) -> None:
    """width: rows of the panel, of which these are some."""
    zero = ir.Constant(ir.VectorType(I16, 2 * e.lanes), [zero_of_bytes(layout.quants)] * (2 * e.lanes))
    planes, codes = [at[name] for name in ("low", "high") if name in at], dict[int, ir.Value]()
    for elements in (elements for steps in sweeps(layout) for elements in steps):
        for element, words in zip(elements, fours(e, layout.quants, planes, elements), strict=True):
            group = element // layout.group
            if layout.subscales is not None and group not in codes:
                code = e.load("i8", at["codes"], e.interleaved * group).i32()
                codes[group] = _halves(e, (code & 0xFFFF) | (code << 16))
            for half, place in ((words & 0x00FF00FF, element), ((words >> 8) & 0x00FF00FF, element + 2)):
                number = e.builder.sub(_halves(e, half), zero)
                if group in codes:
                    number = e.builder.mul(number, codes[group])
                e.store(number, e.offset(out, 2 * width * place), 4)


def _emit_scales(e: Emitter, layout: Blocks, at: Mapping[str, ir.Value], out: ir.Value, width: int) -> None:
    scale, each = e.scale(layout.exponent, at["scale"]), minimums(layout)
    for block in range(layout.size // BLOCK):
        place = e.offset(out, 4 * width * (1 + each) * block)
        e.store(scale.ir, place, 4)
        for n in range(each):
            if layout.subminimums is None:
                least = e.load("f16", at["minimum"]).f32()
            else:
                code = e.load("i8", at["codes"], e.interleaved * (layout.groups + each * block + n)).i32().f32()
                least = e.load("f16", at["scale"], 2 * e.interleaved).f32() * code * -1.0
            e.store(least.ir, e.offset(place, 4 * width * (1 + n)), 4)


def _halves(e: Emitter, words: Value) -> ir.Value:
    """Both int16 in each lane."""
    return e.builder.bitcast(words.ir, ir.VectorType(I16, 2 * e.lanes))
