"""A block's numbers inside Numba functions, by its layout: where a code lies, the words of a tile, its scales."""

import functools
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from kernel_templates.cpu import simd
from kernel_templates.cpu.codes import emit_codebook, emit_exponent
from kernel_templates.cpu.compile import device_function
from kernel_templates.cpu.simd import Vec, _broadcast
from kernel_templates.cpu.tiles import plane_bytes, word_bits
from kernel_templates.cpu.words import bytes_of_codebook, zero_of_bytes
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places

I32 = np.int32


@functools.cache
def place(bits: Bits | Places) -> Callable:
    """njit (number) -> (byte of the block, lowest bit in it), as `bits.place`."""
    if isinstance(bits, Places):
        each = bits.each

        @device_function(bits)
        def listed(number):
            return each[number]

        return listed
    at, run, chunk, width = bits.at, bits.run, bits.chunk, bits.width

    @device_function(bits)
    def computed(number):
        return at + number // chunk * run + number % run, number % chunk // run * width

    return computed


@functools.cache
def codebook(entries: tuple[int, ...], lanes: int) -> Callable:
    """Words of four codes, 0..15 a byte -> of the entries, 0..255, that they number."""
    vec = Vec("i32", lanes)

    @intrinsic
    def look_up(typingctx, words):
        def codegen(context, builder, sig, args):
            return emit_codebook(builder, args[0], entries, vec.llvm, frozenset())

        return vec(vec), codegen

    return look_up


@intrinsic
def exponent_scale(typingctx, value):
    """Lanes of i8, exponents e, as f32 2^(e - 128)."""
    target = Vec("f32", value.lanes)
    return target(value), lambda context, builder, sig, args: emit_exponent(builder, args[0], target.llvm)


@functools.cache
def tile_words(layout: Blocks, lanes: int) -> Callable:
    """njit (planes' addresses, block, element) -> Vec(i32): four quants from an element on, the unsigned bytes of a
    word (see `words.fours`) for each of a tile's rows."""
    quants, load, integer = layout.quants, simd.load("i32", lanes), simd.splat("i32", lanes)

    def part(bits: Bits) -> Callable:
        find, nbytes = place(word_bits(bits)), layout.size * bits.width // 8
        mask = np.uint32(((1 << bits.width) - 1) * 0x01010101).astype(I32)

        @device_function(layout, bits, lanes)
        def read(plane, block, element):
            byte, shift = find(element)
            return (load(plane + (block * nbytes + byte) * lanes) >> integer(I32(shift))) & integer(mask)

        return read

    low, high = part(quants.low), part(quants.high or quants.low)
    above, two, signed = I32(quants.low.width), quants.high is not None, quants.signed
    flip = np.uint32(0x80808080).astype(I32)
    look_up, coded = codebook(bytes_of_codebook(quants), lanes), quants.codebook is not None

    @device_function(layout, lanes)
    def words(w0, w1, block, element):
        found = low(w0, block, element)
        if two:
            found = found | (high(w1, block, element) << integer(above))
        if signed:
            found = found ^ integer(flip)
        if coded:
            found = look_up(found)
        return found

    return words


@functools.cache
def tile_scales(layout: Blocks, lanes: int) -> Callable:
    """njit (planes' addresses, block, group) -> scale, offset: Vec(f32), by which a byte b of `tile_words` is the weight
    scale * b + offset, rounded once."""
    names, sizes = [*plane_bytes(layout)], plane_bytes(layout)
    codes_at, scale_at = names.index("codes") if "codes" in names else 0, names.index("scale")
    scale_bytes, code_bytes, groups = sizes["scale"], sizes.get("codes", 0), layout.groups
    minimum_at, minimum_bytes = (names.index("minimum"), 2) if "minimum" in names else (scale_at, scale_bytes)
    beside = 0 if "minimum" in names else scale_bytes - 2
    exponent, subscales, subminimums = layout.exponent, layout.subscales is not None, layout.subminimums is not None
    has_minimum, zero = layout.minimum is not None, np.float32(-zero_of_bytes(layout.quants))
    load_half, load_byte, splat = simd.load("f16", lanes), simd.load("i8", lanes), simd.splat("f32", lanes)

    @device_function(layout, lanes)
    def code(plane, block, number):
        return simd.to_f32(simd.widen(load_byte(plane + (block * code_bytes + number) * lanes)))

    @device_function(layout, lanes)
    def scales(w0, w1, w2, w3, block, group):
        planes = (w0, w1, w2, w3)
        at = planes[scale_at] + block * scale_bytes * lanes
        if exponent:
            scale = exponent_scale(load_byte(at))
        else:
            scale = simd.to_f32(load_half(at))
        if subscales:
            scale = scale * code(planes[codes_at], block, group)
        if has_minimum:
            offset = simd.to_f32(load_half(planes[minimum_at] + (block * minimum_bytes + beside) * lanes))
            if subminimums:
                offset = offset * code(planes[codes_at], block, groups + group) * splat(np.float32(-1.0))
        else:
            offset = scale * splat(zero)
        return scale, offset

    return scales


@functools.cache
def row_quants(quants: Codes[Bits], lanes: int) -> Callable:
    """njit (address of a block in the file's own bytes, element) -> Vec(i32): the quants of `lanes` weights."""
    integer, load = simd.splat("i32", lanes), simd.load("i8", lanes)

    def part(bits: Bits) -> Callable:
        find, mask, width = place(bits), I32((1 << bits.width) - 1), bits.width
        side_by_side, bits_of_word = bits.run == 1, _bits_of_word(bits.width, lanes)
        if not side_by_side and bits.run % lanes:
            raise ValueError(f"bits in runs of {bits.run} are not read {lanes} at a time")

        @device_function(bits, lanes)
        def read(block, element):
            byte, shift = find(element)
            if side_by_side:
                word = I32(0)
                for i in range(lanes * width // 8):
                    word |= I32(simd.load_u8(block + byte + i)) << I32(8 * i)
                return bits_of_word(word)
            return (simd.widen(load(block + byte)) >> integer(I32(shift))) & integer(mask)

        return read

    low, high = part(quants.low), part(quants.high or quants.low)
    above, two, signed, coded = I32(quants.low.width), quants.high is not None, quants.signed, quants.codebook is not None
    zero, look_up = I32(zero_of_bytes(quants)), codebook(bytes_of_codebook(quants), lanes)

    @device_function(quants, lanes)
    def read(block, element):
        codes = low(block, element)
        if two:
            codes = codes | (high(block, element) << integer(above))
        if coded:
            codes = look_up(codes) & integer(I32(255))
        if signed:
            codes = codes ^ integer(I32(128))
        return codes - integer(zero)

    return read


@functools.cache
def _bits_of_word(width: int, lanes: int) -> Callable:
    """int32 -> Vec(i32): `width` bits a lane, the lowest first."""
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
    """njit (address of a block in the file's own bytes, group) -> scale, minimum: float32, by which a quant q is the
    weight q * scale + minimum."""
    one = simd.load("i8", 1)

    def part(codes: Codes[Bits] | Codes[Places] | None) -> Callable:
        if codes is None:
            return no_code
        low, high, two = place(codes.low), place(codes.high or codes.low), codes.high is not None
        low_mask, high_mask, above = (1 << codes.low.width) - 1, (1 << (codes.bits - codes.low.width)) - 1, codes.low.width
        zero, flip = (128, 128) if codes.signed else (codes.zero, 0)

        @device_function(codes)
        def read(block, group):
            byte, shift = low(group)
            code = (np.int64(simd.load_u8(block + byte)) >> shift) & low_mask
            if two:
                byte, shift = high(group)
                code |= ((np.int64(simd.load_u8(block + byte)) >> shift) & high_mask) << above
            return np.float32((code ^ flip) - zero)

        return read

    subscale, subminimum = part(layout.subscales), part(layout.subminimums)
    scale_at, minimum_at, has_minimum = layout.scale, layout.minimum or 0, layout.minimum is not None
    exponent, subscales, subminimums = layout.exponent, layout.subscales is not None, layout.subminimums is not None

    @device_function(layout)
    def scales(block, group):
        if exponent:
            scale = simd.sum_f32(exponent_scale(one(block + scale_at)))
        else:
            scale = simd.load_f16(block + scale_at)
        if subscales:
            scale = scale * subscale(block, group)
        minimum = np.float32(0.0)
        if has_minimum:
            minimum = simd.load_f16(block + minimum_at)
            if subminimums:
                minimum = -(minimum * subminimum(block, group))
        return scale, minimum

    return scales


@device_function()
def no_code(block, group):
    return np.float32(1.0)
