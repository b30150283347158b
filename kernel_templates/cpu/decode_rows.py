"""A row's quants and scales, in the file's own bytes, inside Numba functions, by the layout of its weights."""

import functools
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from kernel_templates.cpu import simd
from kernel_templates.cpu.codes import codebook, exponent_scale, place
from kernel_templates.cpu.compile import device_function
from kernel_templates.cpu.simd import Vec, _broadcast
from kernel_templates.cpu.words import bytes_of_codebook, zero_of_bytes
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places

I32 = np.int32


@functools.cache
def row_quants(quants: Codes[Bits], lanes: int) -> Callable:
    """njit (address of a block, element) -> Vec(i32): the quants of `lanes` weights."""
    integer, low, high = simd.splat("i32", lanes), _bits(quants.low, lanes), _bits(quants.high or quants.low, lanes)
    two, above, signed, coded = quants.high is not None, I32(quants.low.width), quants.signed, bool(quants.codebook)
    zero, look_up = I32(zero_of_bytes(quants)), codebook(bytes_of_codebook(quants), lanes)

    @device_function(quants, lanes)
    def row_codes(block, element):
        codes = low(block, element)
        if two:
            codes = codes | (high(block, element) << integer(above))
        if coded:
            codes = look_up(codes) & integer(I32(255))
        if signed:
            codes = codes ^ integer(I32(128))
        return codes - integer(zero)

    return row_codes


def _bits(bits: Bits, lanes: int) -> Callable:
    """njit (address of a block, element) -> Vec(i32): these bits of `lanes` codes."""
    find, mask, width = place(bits), I32((1 << bits.width) - 1), bits.width
    load, integer, spread = simd.load("i8", lanes), simd.splat("i32", lanes), _bits_of_word(bits.width, lanes)
    side_by_side = bits.run == 1
    if not side_by_side and bits.run % lanes:
        raise ValueError(f"bits in runs of {bits.run} are not read {lanes} at a time")

    @device_function(bits, lanes)
    def row_bits(block, element):
        byte, shift = find(element)
        if side_by_side:
            word = I32(0)
            for i in range(lanes * width // 8):
                word |= I32(simd.load_u8(block + byte + i)) << I32(8 * i)
            return spread(word)
        return (simd.widen(load(block + byte)) >> integer(I32(shift))) & integer(mask)

    return row_bits


@functools.cache
def _bits_of_word(width: int, lanes: int) -> Callable:
    """intrinsic (int32) -> Vec(i32): `width` bits a lane, the lowest first."""
    vec = Vec("i32", lanes)

    @intrinsic
    def spread(typingctx, word):
        def codegen(context, builder, sig, args):
            shifts = ir.Constant(vec.llvm, [width * lane for lane in range(lanes)])
            mask = ir.Constant(vec.llvm, [(1 << width) - 1] * lanes)
            return builder.and_(builder.lshr(_broadcast(builder, args[0], vec.llvm), shifts), mask)

        return vec(types.int32), codegen

    return spread


@functools.cache
def row_scales(layout: Blocks) -> Callable:
    """njit (address of a block, group) -> scale, minimum: float32, by which a quant q is the weight
    q * scale + minimum."""
    one, subscale, subminimum = simd.load("i8", 1), _code(layout.subscales), _code(layout.subminimums)
    scale_at, minimum_at, has_minimum = layout.scale, layout.minimum or 0, layout.minimum is not None
    exponent, sign = layout.exponent, np.float32(1.0 if layout.subminimums is None else -1.0)

    @device_function(layout)
    def scales(block, group):
        at = block + scale_at
        scale = simd.sum_f32(exponent_scale(one(at))) if exponent else simd.load_f16(at)
        minimum = np.float32(0.0)
        if has_minimum:
            minimum = simd.load_f16(block + minimum_at) * subminimum(block, group) * sign
        return scale * subscale(block, group), minimum

    return scales


def _code(codes: Codes[Bits] | Codes[Places] | None) -> Callable:
    """njit (address of a block, number) -> float32: what one of its codes stands for; 1 without codes."""
    if codes is None:

        @device_function(codes)
        def row_one(block, number):
            return np.float32(1.0)

        return row_one
    low, high, two, above = place(codes.low), place(codes.high or codes.low), codes.high is not None, codes.low.width
    low_mask, high_mask = (1 << above) - 1, (1 << (codes.bits - above)) - 1
    zero, sign = (128, 128) if codes.signed else (codes.zero, 0)

    @device_function(codes)
    def row_code(block, number):
        byte, shift = low(number)
        code = (np.int64(simd.load_u8(block + byte)) >> shift) & low_mask
        if two:
            byte, shift = high(number)
            code |= ((np.int64(simd.load_u8(block + byte)) >> shift) & high_mask) << above
        return np.float32((code ^ sign) - zero)

    return row_code
