"""A block's quants in the words of its planes: which words hold which, and four of them as the bytes of one word."""

from collections.abc import Iterator

from llvmlite import ir

from kernel_templates.cpu.emit import Emitter, Value
from kernel_templates.cpu.tiles import word_bits
from kernel_templates.formats.layout import Bits, Blocks, Codes


def sweeps(layout: Blocks) -> Iterator[list[list[int]]]:
    """A block's elements by fours, named by the first of each: a list for those that share words, in a list for those
    that complete a group or several."""
    bits = [word_bits(bits) for bits in (layout.quants.low, layout.quants.high) if bits is not None]
    run = min(some.run for some in bits)
    width = min(run, layout.group)
    for first in range(0, layout.size, bits[0].chunk):
        for part in range(first, first + run, width):
            yield [[*range(at, first + bits[0].chunk, run)] for at in range(part, part + width, 4)]


def zero_of_bytes(quants: Codes[Bits]) -> int:
    """What the bytes of `fours` count from."""
    return 128 if quants.signed or quants.codebook is not None else quants.zero


def bytes_of_codebook(quants: Codes[Bits]) -> tuple[int, ...]:
    """Its entries as `fours` counts them."""
    return tuple(entry + 128 for entry in quants.codebook or range(16))


def fours(e: Emitter, quants: Codes[Bits], planes: list[ir.Value], elements: list[int]) -> Iterator[Value]:
    """Four quants from each of `elements` on, as the unsigned bytes of a word.

    planes: addresses of the block's low and high bits. Each word is loaded once, before the first is yielded.
    """
    parts = []
    for bits, plane in zip((quants.low, quants.high), planes, strict=False):
        if bits is not None:
            places = [word_bits(bits).place(element) for element in elements]
            rows = e.interleaved or e.lanes
            words = {byte: e.load("i32", plane, rows * byte) for byte in dict.fromkeys(byte for byte, _ in places)}
            parts.append([(words[byte], shift) for byte, shift in places])
    for i in range(len(elements)):
        value = _move(*parts[0][i], quants.low.width, 0)
        if quants.high is not None:
            value = value | _move(*parts[1][i], quants.high.width, quants.low.width)
        if quants.signed:
            value = value ^ 0x80808080
        if quants.codebook is not None:
            value = e.codebook(value, bytes_of_codebook(quants))
        yield value


def _move(word: Value, shift: int, width: int, to: int) -> Value:
    """`width` bits of each byte of a word, from bit `shift` to bit `to`."""
    if width == 8:
        return word
    moved = word << (to - shift) if shift < to else word >> (shift - to) if shift > to else word
    return moved & ((1 << width) - 1 << to) * 0x01010101
