"""A tile's quants and scales inside Numba functions, by the layout of its weights."""

import functools
from collections.abc import Callable

import numpy as np

from kernel_templates.cpu import simd
from kernel_templates.cpu.codes import codebook, exponent_scale, place
from kernel_templates.cpu.compile import device_function
from kernel_templates.cpu.tiles import plane_bytes, word_bits
from kernel_templates.cpu.words import bytes_of_codebook, zero_of_bytes
from kernel_templates.formats.layout import Bits, Blocks

I32 = np.int32


@functools.cache
def tile_words(layout: Blocks, lanes: int, width: int) -> Callable:
    """njit (addresses of the first two planes, block, element, row) -> Vec(i32): four quants from an element on, the
    bytes of a word as in `words.fours`, of `width` rows from one of a tile's `lanes` on."""
    quants, integer = layout.quants, simd.splat("i32", width)
    low = _plane_words(layout, quants.low, lanes, width)
    high = _plane_words(layout, quants.high or quants.low, lanes, width)
    two, above = quants.high is not None, I32(quants.low.width)
    signed, sign = quants.signed, np.uint32(0x80808080).astype(I32)
    coded, look_up = quants.codebook is not None, codebook(bytes_of_codebook(quants), width)

    @device_function(layout, lanes, width)
    def words(w0, w1, block, element, row):
        found = low(w0, block, element, row)
        if two:
            found = found | (high(w1, block, element, row) << integer(above))
        if signed:
            found = found ^ integer(sign)
        if coded:
            found = look_up(found)
        return found

    return words


def _plane_words(layout: Blocks, bits: Bits, lanes: int, width: int) -> Callable:
    """njit (address of a plane, block, element, row) -> Vec(i32): these bits of four quants, at the bottom of bytes."""
    find, nbytes = place(word_bits(bits)), layout.size * bits.width // 8
    load, integer = simd.load("i32", width), simd.splat("i32", width)
    mask = np.uint32(((1 << bits.width) - 1) * 0x01010101).astype(I32)

    @device_function(layout, bits, lanes, width)
    def plane_words(plane, block, element, row):
        byte, shift = find(element)
        return (load(plane + (block * nbytes + byte) * lanes + 4 * row) >> integer(I32(shift))) & integer(mask)

    return plane_words


@functools.cache
def tile_scales(layout: Blocks, lanes: int, width: int) -> Callable:
    """njit (planes' addresses, block, group, row) -> scale, offset: Vec(f32), by which a byte b of `tile_words` is the
    weight scale * b + offset, rounded once."""
    sizes = plane_bytes(layout)
    names, scale_bytes, code_bytes = [*sizes], sizes["scale"], sizes.get("codes", 0)
    scale_at, codes_at = names.index("scale"), names.index("codes" if "codes" in sizes else "scale")
    minimum_at = names.index("minimum" if "minimum" in sizes else "scale")
    minimum_bytes, beside = (2, 0) if "minimum" in sizes else (scale_bytes, scale_bytes - 2)
    exponent, has_minimum, groups = layout.exponent, layout.minimum is not None, layout.groups
    subscales, subminimums = layout.subscales is not None, layout.subminimums is not None
    zero = np.float32(-zero_of_bytes(layout.quants))
    load_half, load_byte, splat = simd.load("f16", width), simd.load("i8", width), simd.splat("f32", width)

    @device_function(layout, lanes, width)
    def tile_code(plane, block, number, row):
        return simd.to_f32(simd.widen(load_byte(plane + (block * code_bytes + number) * lanes + row)))

    @device_function(layout, lanes, width)
    def scales(w0, w1, w2, w3, block, group, row):
        planes = (w0, w1, w2, w3)
        at = planes[scale_at] + block * scale_bytes * lanes
        scale = exponent_scale(load_byte(at + row)) if exponent else simd.to_f32(load_half(at + 2 * row))
        if subscales:
            scale = scale * tile_code(planes[codes_at], block, group, row)
        if has_minimum:
            offset = simd.to_f32(load_half(planes[minimum_at] + (block * minimum_bytes + beside) * lanes + 2 * row))
            if subminimums:
                offset = offset * tile_code(planes[codes_at], block, groups + group, row) * splat(np.float32(-1.0))
        else:
            offset = scale * splat(zero)
        return scale, offset

    return scales
