"""Packed weights back to numbers, for matrix products over many tokens (prefill), which a library does best.

A tile's `lanes` rows become a column stripe of the transpose: out float32 [cols, padded rows], so that every store is a
whole vector. Values are those of the format's own dequantize.
"""

from collections.abc import Callable

import numpy as np

from kernel_templates import formats
from kernel_templates.cpu import simd
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.decode_tiles import tile_scales, tile_words
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, planes_of
from kernel_templates.cpu.simd import load_i64
from kernel_templates.cpu.tiles import Tiles, tile_count
from kernel_templates.formats.layout import Floats, Layout

I32 = np.int32


def compile(format_name: str, cols: int, lanes: int) -> Kernel:
    """The kernel for matrices of a width."""
    layout = formats.get(format_name).layout
    expand_tile = _expander(layout, cols, lanes)

    def expand(arguments, sync, thread, threads):
        w0, w1, w2, w3 = planes_of(arguments)
        out, count = load_i64(arguments + 32), load_i64(arguments + 40)
        stride = 4 * lanes * count
        for tile in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            expand_tile(w0, w1, w2, w3, tile, out + 4 * lanes * tile, stride)

    return compile_kernel(expand, f"expand {layout} cols={cols} lanes={lanes} f32")


def bind(kernel: Kernel, packed: Tiles, out: np.ndarray) -> Step:
    """out: float32, at least cols * padded rows elements."""
    return step(kernel, (*packed.arguments(), out, tile_count(packed.rows, packed.lanes)), "expand")


def _expander(layout: Layout, cols: int, lanes: int) -> Callable:
    """njit (plane addresses, tile, out: address of the tile's first column, stride: bytes a column) -> None."""
    key = (layout, cols, lanes)
    if isinstance(layout, Floats):
        width, load_value = layout.nbytes, simd.load(layout.kind, lanes)

        @device_function(*key)
        def dense(w0, w1, w2, w3, tile, out, stride):
            for c in range(cols):
                simd.store(out + stride * c, simd.to_f32(load_value(w0 + (tile * cols + c) * width * lanes)))

        return dense
    size, group = layout.size, layout.group
    words, scales, integer = tile_words(layout, lanes), tile_scales(layout, lanes), simd.splat("i32", lanes)

    @device_function(*key)
    def blocks(w0, w1, w2, w3, tile, out, stride):
        for b in range(cols // size):
            at = tile * (cols // size) + b
            for g in range(size // group):
                scale, offset = scales(w0, w1, w2, w3, at, g)
                for element in range(g * group, (g + 1) * group, 4):
                    four = words(w0, w1, at, element)
                    for i in range(4):
                        byte = (four >> integer(I32(8 * i))) & integer(I32(0xFF))
                        value = simd.fma(simd.to_f32(byte), scale, offset)
                        simd.store(out + stride * (size * b + element + i), value)

    return blocks
