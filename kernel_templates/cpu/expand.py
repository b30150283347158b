"""Packed weights back to numbers, for matrix products over many tokens (prefill), which a library does best.

A tile's `lanes` rows become a column stripe of the transpose: out [cols, padded rows], bf16 or float32, so that every
store is a whole vector. Values are those of the format's own dequantize, rounded once if the target is bf16.
"""

from collections.abc import Callable

import numpy as np

from kernel_templates.cpu import simd
from kernel_templates.cpu.blocks import FLOATS
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, planes_of
from kernel_templates.cpu.simd import load_i64
from kernel_templates.cpu.tiles import Tiles, tile_count

I32 = np.int32
TARGETS = {"bf16": 2, "f32": 4}


def compile(format_name: str, cols: int, lanes: int, target: str) -> Kernel:
    """The kernel for matrices of a width; `target` is a key of TARGETS."""
    size = TARGETS[target]
    expand_tile = _expander(format_name, cols, lanes, target)

    def expand(arguments, sync, thread, threads):
        w0, w1, w2, w3 = planes_of(arguments)
        out, count = load_i64(arguments + 32), load_i64(arguments + 40)
        stride = size * lanes * count
        for tile in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            expand_tile(w0, w1, w2, w3, tile, out + size * lanes * tile, stride)

    return compile_kernel(expand, f"expand {format_name} cols={cols} lanes={lanes} {target}")


def bind(kernel: Kernel, packed: Tiles, out: np.ndarray) -> Step:
    """out: int16 (bf16 bits) or float32, at least cols * padded rows elements."""
    return step(kernel, (*packed.arguments(), out, tile_count(packed.rows, packed.lanes)), "expand")


def _expander(format_name: str, cols: int, lanes: int, target: str) -> Callable:
    """njit (plane addresses, tile, out: address of the tile's first column, stride: bytes a column) -> None."""
    key = (format_name, cols, lanes, target)
    load, integer = simd.load("i32", lanes), simd.splat("i32", lanes)
    splat, load_scale, load_sub = simd.splat("f32", lanes), simd.load("f16", lanes), simd.load("i8", lanes)
    rounded = target == "bf16"

    @device_function(*key)
    def write(at, value):
        if rounded:
            simd.store(at, simd.to_bf16(value))
        else:
            simd.store(at, value)

    @device_function(*key)
    def four(at, stride, words, scale, offset):
        """The four bytes of each lane: scale * byte + offset to four consecutive columns."""
        for i in range(4):
            byte = (words >> integer(I32(8 * i))) & integer(I32(0xFF))
            write(at + stride * i, simd.fma(simd.to_f32(byte), scale, offset))

    if format_name in FLOATS:
        kind, width = FLOATS[format_name]
        load_value = simd.load(kind, lanes)

        @device_function(*key)
        def dense(w0, w1, w2, w3, tile, out, stride):
            for c in range(cols):
                write(out + stride * c, simd.to_f32(load_value(w0 + (tile * cols + c) * width * lanes)))

        return dense

    if format_name in ("Q4_0", "Q4_1"):
        has_minimum = format_name == "Q4_1"

        @device_function(*key)
        def nibbles(w0, w1, w2, w3, tile, out, stride):
            mask, shift = integer(I32(0x0F0F0F0F)), integer(I32(4))
            for b in range(cols // 32):
                at = tile * (cols // 32) + b
                scale = simd.to_f32(load_scale(w1 + at * 2 * lanes))
                if has_minimum:
                    offset = simd.to_f32(load_scale(w2 + at * 2 * lanes))
                else:
                    offset = scale * splat(np.float32(-8.0))
                for w in range(4):
                    words = load(w0 + (at * 4 + w) * 4 * lanes)
                    column = out + stride * (32 * b + 4 * w)
                    four(column, stride, words & mask, scale, offset)
                    four(column + 16 * stride, stride, (words >> shift) & mask, scale, offset)

        return nibbles

    if format_name == "Q8_0":

        @device_function(*key)
        def bytes_(w0, w1, w2, w3, tile, out, stride):
            flip = integer(I32(-2139062144))  # 0x80808080
            for b in range(cols // 32):
                at = tile * (cols // 32) + b
                scale = simd.to_f32(load_scale(w1 + at * 2 * lanes))
                offset = scale * splat(np.float32(-128.0))
                for w in range(8):
                    words = load(w0 + (at * 8 + w) * 4 * lanes) ^ flip
                    four(out + stride * (32 * b + 4 * w), stride, words, scale, offset)

        return bytes_

    @device_function(*key)
    def six_bits(w0, w1, w2, w3, tile, out, stride):
        low_mask, high_mask, shift = integer(I32(0x0F0F0F0F)), integer(I32(0x03030303)), integer(I32(4))
        for s in range(cols // 256):
            at = tile * (cols // 256) + s
            unit = simd.to_f32(load_scale(w3 + at * 2 * lanes))
            for sub in range(16):  # 16 elements each: half, quarter and part as in blocks._q6_k
                half, quarter, part = sub >> 3, (sub >> 1) & 3, sub & 1
                scale = unit * simd.to_f32(simd.widen(load_sub(w2 + (at * 16 + sub) * lanes)))
                offset = scale * splat(np.float32(-32.0))
                low = w0 + (at * 32 + half * 16 + (quarter & 1) * 8 + 4 * part) * 4 * lanes
                high = w1 + (at * 16 + half * 8 + 4 * part) * 4 * lanes
                for w in range(4):
                    nibble = (load(low + 4 * lanes * w) >> integer(I32(4 * (quarter >> 1)))) & low_mask
                    pair = (load(high + 4 * lanes * w) >> integer(I32(2 * quarter))) & high_mask
                    four(out + stride * (256 * s + 16 * sub + 4 * w), stride, nibble | (pair << shift), scale, offset)

    return six_bits
