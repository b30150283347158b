"""The embedding lookup: one row of a matrix in the file's own bytes, dequantized to float32.

Bit-exact with the format's dequantize; as a kernel because a library's dequantization of a single row takes longer
(0.6 ms for a Q6_K row of 1024) than everything else around a token's graph.
"""

import numpy as np

from kernel_templates import formats
from kernel_templates.cpu import simd
from kernel_templates.cpu.blocks import FLOATS
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.simd import load_f16, load_i64

LANES = 16


def compile(format_name: str, cols: int) -> Kernel:
    """cols: a multiple of the format's block and of 16."""
    row_bytes = formats.get(format_name).row_bytes(cols)
    expand = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0, "Q6_K": _q6_k}.get(format_name)
    write_row = expand(cols) if expand else _floats(format_name, cols)

    def embed(arguments, sync, thread, threads):
        if thread == 0:
            row = load_i64(arguments) + load_i64(load_i64(arguments + 8)) * row_bytes
            write_row(row, load_i64(arguments + 16))

    return compile_kernel(embed, f"embed {format_name} cols={cols}")


def bind(kernel: Kernel, raw: np.ndarray, token: np.ndarray, out: np.ndarray) -> Step:
    """raw: uint8 [rows, row bytes]; token: int64 [1], a row's number; out: float32 [cols]."""
    return step(kernel, (raw, token, out), "embed")


_bytes, _words = simd.load("i8", LANES), simd.splat("i32", LANES)
_numbers = simd.splat("f32", LANES)


def _field(name: str):
    """njit (address of 16 bytes, shift, mask) -> Vec(i32): those bits of each byte."""

    @device_function(name)
    def field(address, shift, mask):
        return (simd.widen(_bytes(address)) >> _words(np.int32(shift))) & _words(np.int32(mask))

    return field


def _q4_0(cols: int):
    field = _field("q4_0")

    @device_function(cols)
    def q4_0(row, out):
        for b in range(cols // 32):
            at, scale = row + 18 * b, _numbers(load_f16(row + 18 * b))
            eight = _numbers(np.float32(8.0))
            simd.store(out + 128 * b, (simd.to_f32(field(at + 2, 0, 15)) - eight) * scale)
            simd.store(out + 128 * b + 64, (simd.to_f32(field(at + 2, 4, 15)) - eight) * scale)

    return q4_0


def _q4_1(cols: int):
    field = _field("q4_1")

    @device_function(cols)
    def q4_1(row, out):
        for b in range(cols // 32):
            at = row + 20 * b
            scale, minimum = _numbers(load_f16(at)), _numbers(load_f16(at + 2))
            simd.store(out + 128 * b, simd.to_f32(field(at + 4, 0, 15)) * scale + minimum)
            simd.store(out + 128 * b + 64, simd.to_f32(field(at + 4, 4, 15)) * scale + minimum)

    return q4_1


def _q8_0(cols: int):
    @device_function(cols)
    def q8_0(row, out):
        for b in range(cols // 32):
            at, scale = row + 34 * b, _numbers(load_f16(row + 34 * b))
            for half in range(2):
                value = simd.to_f32(simd.widen(_bytes(at + 2 + 16 * half)))
                simd.store(out + 128 * b + 64 * half, value * scale)

    return q8_0


def _q6_k(cols: int):
    field = _field("q6_k")
    one = simd.load("i8", 1)

    @device_function(cols)
    def q6_k(row, out):
        for s in range(cols // 256):
            at = row + 210 * s
            unit = load_f16(at + 208)
            for sub in range(16):  # half, quarter and part as in blocks._q6_k
                half, quarter, part = sub >> 3, (sub >> 1) & 3, sub & 1
                low = field(at + 64 * half + 32 * (quarter & 1) + 16 * part, 4 * (quarter >> 1), 15)
                high = field(at + 128 + 32 * half + 16 * part, 2 * quarter, 3)
                value = simd.to_f32((low | (high << _words(np.int32(4)))) - _words(np.int32(32)))
                scale = unit * simd.sum_f32(simd.to_f32(simd.widen(one(at + 192 + sub))))
                simd.store(out + 1024 * s + 64 * sub, value * _numbers(scale))

    return q6_k


def _floats(format_name: str, cols: int):
    kind, size = FLOATS[format_name]
    load = simd.load(kind, LANES)

    @device_function(format_name, cols)
    def floats(row, out):
        for i in range(0, cols, LANES):
            simd.store(out + 4 * i, simd.to_f32(load(row + size * i)))

    return floats
