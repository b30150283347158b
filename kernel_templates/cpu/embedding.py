"""The embedding lookup: one row of a matrix in the file's own bytes, dequantized to float32.

Bit-exact with the format's dequantize; as a kernel because a library's dequantization of a single row takes longer
(0.6 ms for a row of 1024 in super-blocks) than everything else around a token's graph.
"""

from collections.abc import Callable

import numpy as np

from kernel_templates import formats
from kernel_templates.cpu import simd
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.decode_rows import row_quants, row_scales
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_i64
from kernel_templates.formats.layout import Blocks, Floats, Layout

LANES = 16


def compile(format_name: str, cols: int, scale: float = 1.0) -> Kernel:
    """cols: a multiple of the format's block and of 16; scale: a float32 that every element is multiplied with."""
    layout, row_bytes = formats.get(format_name).layout, formats.get(format_name).row_bytes(cols)
    write_row = _scaled(layout, cols, scale)

    def embed(arguments, sync, thread, threads):
        if thread == 0:
            row = load_i64(arguments) + load_i64(load_i64(arguments + 8)) * row_bytes
            write_row(row, load_i64(arguments + 16))

    return compile_kernel(embed, f"embed {layout} cols={cols} scale={scale}")


def compile_rows(format_name: str, cols: int, scale: float = 1.0) -> Kernel:
    """As `compile`, for many tokens, which the threads share."""
    layout, row_bytes = formats.get(format_name).layout, formats.get(format_name).row_bytes(cols)
    write_row = _scaled(layout, cols, scale)

    def embed_rows(arguments, sync, thread, threads):
        raw, tokens, out = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16)
        count = load_i64(load_i64(arguments + 24))
        for row in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            write_row(raw + load_i64(tokens + 8 * row) * row_bytes, out + 4 * cols * row)

    return compile_kernel(embed_rows, f"embed rows {layout} cols={cols} scale={scale}")


def bind(kernel: Kernel, raw: np.ndarray, token: np.ndarray, out: np.ndarray) -> Step:
    """raw: uint8 [rows, row bytes]; token: int64 [1], a row's number; out: float32 [cols]."""
    return step(kernel, (raw, token, out), "embed")


def bind_rows(kernel: Kernel, raw: np.ndarray, tokens: np.ndarray, out: np.ndarray, count: np.ndarray) -> Step:
    """tokens: int64 [rows]; out: float32 [rows, cols]; count: int64 [1]."""
    return step(kernel, (raw, tokens, out, count), "embed")


def _scaled(layout: Layout, cols: int, scale: float) -> Callable:
    """njit (address of a row, out: of float32 [cols]) -> None."""
    write_row = _floats(layout, cols) if isinstance(layout, Floats) else _blocks(layout, cols)
    factor, load, splat = np.float32(scale), simd.load("f32", LANES), simd.splat("f32", LANES)
    if scale == 1.0:
        return write_row

    @device_function(layout, cols, scale)
    def write_scaled(row, out):
        write_row(row, out)
        for i in range(0, cols, LANES):
            simd.store(out + 4 * i, load(out + 4 * i) * splat(factor))

    return write_scaled


def _floats(layout: Floats, cols: int) -> Callable:
    size, load = layout.nbytes, simd.load(layout.kind, LANES)

    @device_function(layout, cols)
    def floats(row, out):
        for i in range(0, cols, LANES):
            simd.store(out + 4 * i, simd.to_f32(load(row + size * i)))

    return floats


def _blocks(layout: Blocks, cols: int) -> Callable:
    size, nbytes, group, has_minimum = layout.size, layout.nbytes, layout.group, layout.minimum is not None
    quants, scales, splat = row_quants(layout.quants, LANES), row_scales(layout), simd.splat("f32", LANES)

    @device_function(layout, cols)
    def blocks(row, out):
        for b in range(cols // size):
            for element in range(0, size, LANES):
                scale, minimum = scales(row + nbytes * b, element // group)
                value = simd.to_f32(quants(row + nbytes * b, element)) * splat(scale)
                if has_minimum:
                    value = value + splat(minimum)
                simd.store(out + 4 * (size * b + element), value)

    return blocks
