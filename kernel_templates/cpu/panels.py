"""Panels: a few rows of a packed matrix and some of their columns, decoded once for all tokens of a product.

A panel is small enough for a core's nearest caches. By blocks of 32 columns, `width` rows side by side:

    int16  pairs of whole numbers, quants less their zero point times the subscales: of four columns the first and the
           third, then the second and the fourth, as masks give them; beside them a block's scale and its minimums (two
           where they are for 16 weights), float32
    f32    the weights themselves, column by column

Products of int16 fit an int32: of Q6_K 32 * 16256 * 32 * 128 < 2^31, and no format has larger numbers.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core.extending import intrinsic

from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import BLOCK
from kernel_templates.cpu.codes import exponent_scale
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.decode_tiles import tile_scales, tile_words
from kernel_templates.cpu.matrix import caller
from kernel_templates.cpu.tiles import plane_bytes
from kernel_templates.cpu.words import zero_of_bytes
from kernel_templates.formats.layout import Blocks, Floats, Layout

I32 = np.int32


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


WORDS = 9
fill = caller(WORDS)
"""(address of a `compile`d loop, and its arguments) -> None."""


def compile(layout: Layout, kind: str, lanes: int, width: int) -> Kernel:
    """void fill(planes' addresses, index, row, steps, numbers, scales).

    lanes: rows of the packed tiles; index: the panel's first step in the planes, row: its first in its tile, a multiple
    of `width`; steps: of `step_of` columns each; numbers, scales: addresses of what is written."""
    if isinstance(layout, Floats):
        fill_panel = _floats(layout, lanes, width)
    else:
        fill_panel = (_numbers if kind == "int16" else _expanded)(layout, lanes, width)
    return compile_kernel(fill_panel, f"panel {layout} {kind} {lanes} {width}", WORDS)


def _floats(layout: Floats, lanes: int, width: int) -> Callable:
    size, load = layout.nbytes, simd.load(layout.kind, width)

    def fill_floats(w0, w1, w2, w3, index, row, steps, numbers, scales):
        for c in range(BLOCK * steps):
            value = load(w0 + ((index * BLOCK + c) * lanes + row) * size)
            simd.store(numbers + 4 * width * c, simd.to_f32(value))

    return fill_floats


def _expanded(layout: Blocks, lanes: int, width: int) -> Callable:
    size, group, integer = layout.size, layout.group, simd.splat("i32", width)
    words, factors = tile_words(layout, lanes, width), tile_scales(layout, lanes, width)

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


def _numbers(layout: Blocks, lanes: int, width: int) -> Callable:
    size, group, blocks, integer = layout.size, layout.group, layout.size // BLOCK, simd.splat("i32", width)
    words, zero = tile_words(layout, lanes, width), I32(zero_of_bytes(layout.quants) * 0x00010001)
    has_codes, per_block = layout.subscales is not None, 1 + minimums(layout)
    code, scale_of, minimum_of = _code(layout, lanes, width), _scale(layout, lanes, width), _minimum(layout, lanes, width)
    each = max(1, per_block - 1)  # minimums, where there are any
    has_minimum = per_block > 1

    def fill_numbers(w0, w1, w2, w3, index, row, steps, numbers, scales):
        mask = integer(I32(0x00FF00FF))
        for b in range(steps):
            at = index + b
            out = numbers + 2 * width * size * b
            for g in range(size // group):
                if has_codes:
                    factor = code(w0, w1, w2, w3, at, g, row)
                for element in range(g * group, (g + 1) * group, 4):
                    four = words(w0, w1, at, element, row)
                    even = _subtract(four & mask, integer(zero))
                    odd = _subtract((four >> integer(I32(8))) & mask, integer(zero))
                    if has_codes:
                        even, odd = _multiply(even, factor), _multiply(odd, factor)
                    simd.store(out + 2 * width * element, even)
                    simd.store(out + 2 * width * (element + 2), odd)
            scale = scale_of(w0, w1, w2, w3, at, row)
            for part in range(blocks):
                place = scales + 4 * width * per_block * (blocks * b + part)
                simd.store(place, scale)
                if has_minimum:
                    for n in range(each):
                        least = minimum_of(w0, w1, w2, w3, at, each * part + n, row)
                        simd.store(place + 4 * width * (1 + n), least)

    return fill_numbers


def _planes(layout: Blocks) -> tuple[dict[str, int], dict[str, int]]:
    """Number of each plane, and bytes of a block in it, by its name."""
    sizes = plane_bytes(layout)
    return {name: number for number, name in enumerate(sizes)}, sizes


def _code(layout: Blocks, lanes: int, width: int) -> Callable:
    """njit (planes, block, group, row) -> Vec(i32): a group's subscale in both halves of each lane."""
    number, sizes = _planes(layout)
    plane, nbytes = number.get("codes", 0), sizes.get("codes", 0)
    load, integer = simd.load("i8", width), simd.splat("i32", width)

    @device_function(layout, lanes, width)
    def panel_code(w0, w1, w2, w3, block, group, row):
        found = simd.widen(load((w0, w1, w2, w3)[plane] + (block * nbytes + group) * lanes + row))
        return (found & integer(I32(0xFFFF))) | (found << integer(I32(16)))

    return panel_code


def _scale(layout: Blocks, lanes: int, width: int) -> Callable:
    """njit (planes, block, row) -> Vec(f32): a block's scale."""
    number, sizes = _planes(layout)
    plane, nbytes, exponent = number["scale"], sizes["scale"], layout.exponent
    load_half, load_byte = simd.load("f16", width), simd.load("i8", width)

    @device_function(layout, lanes, width)
    def panel_scale(w0, w1, w2, w3, block, row):
        at = (w0, w1, w2, w3)[plane] + block * nbytes * lanes
        return exponent_scale(load_byte(at + row)) if exponent else simd.to_f32(load_half(at + 2 * row))

    return panel_scale


def _minimum(layout: Blocks, lanes: int, width: int) -> Callable:
    """njit (planes, block, group, row) -> Vec(f32): what every weight of the group has beside its quant's share."""
    number, sizes = _planes(layout)
    coded, groups = layout.subminimums is not None, layout.groups
    plane = number["scale" if coded else "minimum"] if layout.minimum is not None else 0
    nbytes, beside = (sizes["scale"], sizes["scale"] - 2) if coded else (2, 0)
    codes, code_bytes = number.get("codes", 0), sizes.get("codes", 0)
    load_half, load_byte, splat = simd.load("f16", width), simd.load("i8", width), simd.splat("f32", width)

    @device_function(layout, lanes, width)
    def panel_minimum(w0, w1, w2, w3, block, group, row):
        planes = (w0, w1, w2, w3)
        found = simd.to_f32(load_half(planes[plane] + (block * nbytes + beside) * lanes + 2 * row))
        if coded:
            number = load_byte(planes[codes] + (block * code_bytes + groups + group) * lanes + row)
            found = found * simd.to_f32(simd.widen(number)) * splat(np.float32(-1.0))
        return found

    return panel_minimum


def _halves(operation: str) -> Callable:
    @intrinsic
    def lanewise(typingctx, a, b):
        def codegen(context, builder, sig, args):
            halves = ir.VectorType(ir.IntType(16), 2 * sig.return_type.lanes)
            made = getattr(builder, operation)(*(builder.bitcast(value, halves) for value in args))
            return builder.bitcast(made, sig.return_type.llvm)

        return a(a, b), codegen

    return lanewise


_subtract, _multiply = _halves("sub"), _halves("mul")
"""Of both int16 in each lane of i32."""
