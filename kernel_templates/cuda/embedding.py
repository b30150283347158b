"""The embedding lookup: a token's row of the matrix, decoded from the file's own bytes into the residual stream."""

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from kernel_templates import formats
from kernel_templates.cuda.codes import entry, scale_of
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import store_groups
from kernel_templates.formats.layout import Floats

TILE = 8192
"""Elements decoded at once: 16 a thread in 16 warps, which leaves registers to spare; half as many where a minimum is
computed beside them."""


@dataclass(frozen=True)
class Embedding:
    """raw uint8 [vocab, row_bytes], the matrix as ggml stores it, on the device that reads it; hidden: its columns;
    scale: a float32 that every element is multiplied with.

    ValueError for a shape that does not fit the format.
    """

    raw: torch.Tensor
    format: str
    hidden: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        row = formats.get(self.format).row_bytes(self.hidden)
        if self.hidden % 32:
            raise ValueError(f"an embedding has {self.hidden} columns; kernels take multiples of 32")
        if self.raw.dtype != torch.uint8 or self.raw.dim() != 2 or self.raw.shape[1] != row:
            raise ValueError(
                f"a {self.format} embedding of {self.hidden} columns is uint8 [vocab, {row}], "
                f"not {self.raw.dtype} {tuple(self.raw.shape)}"
            )
        if not self.raw.is_contiguous() or self.raw.data_ptr() % 16:
            raise ValueError("an embedding must be contiguous and start at a multiple of 16 bytes")

    @property
    def vocab(self) -> int:
        return self.raw.shape[0]

    @property
    def constants(self) -> dict[str, Any]:
        """What `embed_row` wants to know at compile time."""
        layout = formats.get(self.format).layout
        most = TILE if isinstance(layout, Floats) or layout.subminimums is None else TILE // 2
        return {
            "LAYOUT": layout,
            "HIDDEN": self.hidden,
            "VOCAB": self.vocab,
            "TILE": min(triton.next_power_of_2(self.hidden), most),
            "SCALE": self.scale,
        }


@triton.jit
def load_f16(address, inside):
    """float16 at byte addresses of even number, as float32."""
    return tl.load(address.to(tl.pointer_type(tl.float16), bitcast=True), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_byte(address, inside, SIGNED: tl.constexpr):
    """uint8 as int32; in two's complement, int8."""
    if SIGNED:
        return tl.load(address, mask=inside, other=0).to(tl.int8, bitcast=True)
    else:
        return tl.load(address, mask=inside, other=0).to(tl.int32)


@triton.jit
def decode(row, g, e, inside, LAYOUT: tl.constexpr):
    """Element e, 0..7, of group g of the row of bytes at `row`: float32, bit for bit what the format's `dequantize`
    gives. g, e: int32 of one shape; inside: mask.

    Groups of 8 because a group never crosses a scale, in any format.
    """
    if LAYOUT.kind != "":
        KIND: tl.constexpr = LAYOUT.kind
        DTYPE: tl.constexpr = tl.float32 if KIND == "f32" else (tl.bfloat16 if KIND == "bf16" else tl.float16)
        address = row.to(tl.pointer_type(DTYPE), bitcast=True) + (g * 8 + e)
        return tl.load(address, mask=inside, other=0.0).to(tl.float32)
    else:
        block = row + (g >> (5 if LAYOUT.size == 256 else 2)) * LAYOUT.nbytes
        i = g & (LAYOUT.size // 8 - 1)
        LOW: tl.constexpr = LAYOUT.quants.low
        HIGH: tl.constexpr = LAYOUT.quants.high
        low = load_byte(block + byte_of(i, e, LOW, LAYOUT.size), inside, LAYOUT.quants.signed)
        high = low
        if HIGH is not None:
            high = load_byte(block + byte_of(i, e, HIGH, LAYOUT.size), inside, False)
        if LAYOUT.subscales is not None:
            SUBSCALES: tl.constexpr = LAYOUT.subscales
            subscale = load_code(block, i // (LAYOUT.group // 8), inside, SUBSCALES)
            number = number_of(code_of(low, high, i, e, LAYOUT), LAYOUT)
            scale = load_scale(block, inside, LAYOUT) * subscale.to(tl.float32)
        else:
            code = code_of(low, high, i, e, LAYOUT)
            scale = load_scale(block, inside, LAYOUT)
            number = number_of(code, LAYOUT)
        # Quants times scales are exact in float32, so a fused multiply-add rounds as the two steps do.
        if LAYOUT.subminimums is not None:
            SUBMINIMUMS: tl.constexpr = LAYOUT.subminimums
            subminimum = load_code(block, i // (LAYOUT.group // 8), inside, SUBMINIMUMS).to(tl.float32)
            return number * scale - load_f16(block + LAYOUT.minimum, inside) * subminimum
        elif LAYOUT.minimum is not None:
            return number * scale + load_f16(block + LAYOUT.minimum, inside)
        else:
            return number * scale


@triton.jit
def byte_of(i, e, BITS: tl.constexpr, SIZE: tl.constexpr):
    """Which byte of a block of SIZE weights has the bits of element e of its group i."""
    if BITS.run == 1:
        return i + BITS.at
    else:
        WIDE: tl.constexpr = BITS.run if BITS.run < 32 else 32
        # The chunk is below SIZE // BITS.chunk without being told; ptxas makes a worse schedule of it then.
        chunk, part, within = i // (BITS.chunk // 8) % (SIZE // BITS.chunk), i // 4, i % (WIDE // 8) * 8 + e
        at = chunk * BITS.run
        if BITS.run > WIDE:
            at = at + part % (BITS.run // WIDE) * WIDE
        return at + within + BITS.at


@triton.jit
def bits_of(byte, i, e, BITS: tl.constexpr):
    """The bits of element e of group i in their byte, int32."""
    if BITS.run == 1:
        return (byte >> e) & 1
    else:
        shift = i % (BITS.chunk // 8) // (BITS.run // 8) * BITS.width
        return (byte >> shift) & ((1 << BITS.width) - 1)


@triton.jit
def code_of(low, high, i, e, LAYOUT: tl.constexpr):
    """A quant as stored, int32; a number in two's complement as float32."""
    LOW: tl.constexpr = LAYOUT.quants.low
    HIGH: tl.constexpr = LAYOUT.quants.high
    if LAYOUT.quants.signed:
        return low.to(tl.float32)
    elif HIGH is not None:
        return bits_of(low, i, e, LOW) | (bits_of(high, i, e, HIGH) << LOW.width)
    else:
        return bits_of(low, i, e, LOW)


@triton.jit
def number_of(code, LAYOUT: tl.constexpr):
    """What a quant stands for, float32."""
    if LAYOUT.quants.codebook is not None:
        CODEBOOK: tl.constexpr = LAYOUT.quants.codebook_words
        code = entry(code, CODEBOOK)
    elif LAYOUT.quants.zero:
        code = code - LAYOUT.quants.zero
    return code.to(tl.float32)


@triton.jit
def load_scale(block, inside, LAYOUT: tl.constexpr):
    """A block's scale, float32."""
    if LAYOUT.exponent:
        return scale_of(tl.load(block + LAYOUT.scale, mask=inside, other=0))
    else:
        return load_f16(block + LAYOUT.scale, inside)


@triton.jit
def load_code(block, number, inside, CODES: tl.constexpr):
    """What one of a block's subscales or subminimums stands for: int32, or int8 in two's complement."""
    LOW: tl.constexpr = CODES.low
    HIGH: tl.constexpr = CODES.high
    if CODES.signed:
        return load_byte(block + (number + LOW.at), inside, True)
    elif HIGH is not None:
        low, high = _load_place(block, number, inside, LOW), _load_place(block, number, inside, HIGH)
        return (low | (high << LOW.width)) - CODES.zero
    else:
        return _load_place(block, number, inside, LOW) - CODES.zero


@triton.jit
def _load_place(block, number, inside, PLACES: tl.constexpr):
    nibble = number.to(tl.int64) * 4
    at = ((PLACES.bytes_table >> nibble) & 15).to(tl.int32) + PLACES.first
    shift = ((PLACES.shifts_table >> nibble) & 15).to(tl.int32)
    return (load_byte(block + at, inside, False) >> shift) & ((1 << PLACES.width) - 1)


@triton.jit
def embed_row(
    raw, token, norm, values, high, low, scale, squares,
    LAYOUT: tl.constexpr, HIDDEN: tl.constexpr, VOCAB: tl.constexpr, TILE: tl.constexpr, SCALE: tl.constexpr,
    ACT: tl.constexpr, NORMED: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """One program writes a whole vector: the row of `token` (a number in a register) times SCALE, quantized as
    row * norm.

    A token outside the vocabulary reads the nearest row there is. Everything is [8, groups], a group's elements in
    neighbouring lanes, by opaque numbers: so no access is laid out in another way and goes through shared memory.
    """
    token = tl.minimum(tl.maximum(token, 0), VOCAB - 1)
    row = raw + token.to(tl.int64) * (HIDDEN // LAYOUT.size * LAYOUT.nbytes)
    zero = tl.zeros([8, TILE // 8], tl.int32)
    e = opaque(zero + tl.arange(0, 8)[:, None], ASM)
    for first in tl.static_range(0, HIDDEN, TILE):
        g = opaque(zero + first // 8 + tl.arange(0, TILE // 8)[None, :], ASM)
        inside = g < HIDDEN // 8
        v = decode(row, g, e, inside, LAYOUT)
        if SCALE != 1.0:
            v = v * SCALE
        n = v
        if NORMED:
            n = v * tl.load(norm + (g * 8 + e), mask=inside, other=0.0)
        store_groups(values, high, low, scale, squares, g, e, v, n, inside, ACT, ASM)
