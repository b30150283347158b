"""The embedding lookup: a token's row of the matrix, decoded from the file's own bytes into the residual stream."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernel_templates import formats
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.quantize import store_groups

TILE = 8192
"""Elements decoded at once: 16 a thread in 16 warps, which leaves registers to spare."""


@dataclass(frozen=True)
class Embedding:
    """raw uint8 [vocab, row_bytes], the matrix as ggml stores it, on the device that reads it; hidden: its columns.

    ValueError for a shape that does not fit the format.
    """

    raw: torch.Tensor
    format: str
    hidden: int

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
    def constants(self) -> dict[str, int | str]:
        """What `embed_row` wants to know at compile time."""
        return {
            "FORMAT": self.format,
            "HIDDEN": self.hidden,
            "VOCAB": self.vocab,
            "TILE": min(triton.next_power_of_2(self.hidden), TILE),
        }


@triton.jit
def load_f16(address, inside):
    """float16 at byte addresses of even number, as float32."""
    return tl.load(address.to(tl.pointer_type(tl.float16), bitcast=True), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def decode(row, g, e, inside, FORMAT: tl.constexpr):
    """Element e, 0..7, of group g of the row of bytes at `row`: float32, bit for bit what `formats.<FORMAT>.dequantize`
    gives. g, e: int32 of one shape; inside: mask.

    Groups of 8 because a group never crosses a scale, in any format.
    """
    if FORMAT == "Q4_0" or FORMAT == "Q4_1":
        BYTES: tl.constexpr = 18 if FORMAT == "Q4_0" else 20
        block = row + (g >> 2) * BYTES
        byte = tl.load(block + ((g & 1) * 8 + e + (BYTES - 16)), mask=inside, other=0).to(tl.int32)
        quant = (byte >> ((g & 2) * 2)) & 15
        scale = load_f16(block, inside)
        if FORMAT == "Q4_0":
            return (quant - 8).to(tl.float32) * scale
        # 4 bits times 11 are exact in float32, so a fused multiply-add rounds as the two steps do.
        return quant.to(tl.float32) * scale + load_f16(block + 2, inside)
    elif FORMAT == "Q8_0":
        block = row + (g >> 2) * 34
        byte = tl.load(block + ((g & 3) * 8 + e + 2), mask=inside, other=0)
        return byte.to(tl.int8, bitcast=True).to(tl.float32) * load_f16(block, inside)
    elif FORMAT == "Q6_K":
        block = row + (g >> 5) * 210
        half, run, at = (g >> 4) & 1, (g >> 2) & 3, (g & 3) * 8 + e
        low = tl.load(block + (half * 64 + (run & 1) * 32 + at), mask=inside, other=0).to(tl.int32)
        high = tl.load(block + (half * 32 + at + 128), mask=inside, other=0).to(tl.int32)
        subscale = tl.load(block + (((g & 31) >> 1) + 192), mask=inside, other=0).to(tl.int8, bitcast=True)
        quant = ((low >> ((run >> 1) * 4)) & 15) | (((high >> (run * 2)) & 3) << 4)
        return (quant - 32).to(tl.float32) * (load_f16(block + 208, inside) * subscale.to(tl.float32))
    else:
        i = g * 8 + e
        if FORMAT == "F16":
            return tl.load(row.to(tl.pointer_type(tl.float16), bitcast=True) + i, mask=inside, other=0.0).to(tl.float32)
        elif FORMAT == "BF16":
            return tl.load(row.to(tl.pointer_type(tl.bfloat16), bitcast=True) + i, mask=inside, other=0.0).to(
                tl.float32
            )
        else:
            tl.static_assert(FORMAT == "F32", "unknown weight format")
            return tl.load(row.to(tl.pointer_type(tl.float32), bitcast=True) + i, mask=inside, other=0.0)


@triton.jit
def row_bytes(FORMAT: tl.constexpr, HIDDEN: tl.constexpr):
    """Bytes of one row."""
    if FORMAT == "Q4_0":
        return HIDDEN // 32 * 18
    elif FORMAT == "Q4_1":
        return HIDDEN // 32 * 20
    elif FORMAT == "Q8_0":
        return HIDDEN // 32 * 34
    elif FORMAT == "Q6_K":
        return HIDDEN // 256 * 210
    elif FORMAT == "F32":
        return HIDDEN * 4
    else:
        return HIDDEN * 2


@triton.jit
def embed_row(
    raw, token, norm, values, high, low, scale, squares,
    FORMAT: tl.constexpr, HIDDEN: tl.constexpr, VOCAB: tl.constexpr, TILE: tl.constexpr, ACT: tl.constexpr,
    NORMED: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """One program writes a whole vector: the row of `token` (a number in a register), quantized as row * norm.

    A token outside the vocabulary reads the nearest row there is. Everything is [8, groups], a group's elements in
    neighbouring lanes, by opaque numbers: so no access is laid out in another way and goes through shared memory.
    """
    token = tl.minimum(tl.maximum(token, 0), VOCAB - 1)
    row = raw + token.to(tl.int64) * row_bytes(FORMAT, HIDDEN)
    zero = tl.zeros([8, TILE // 8], tl.int32)
    e = opaque(zero + tl.arange(0, 8)[:, None], ASM)
    for first in tl.static_range(0, HIDDEN, TILE):
        g = opaque(zero + first // 8 + tl.arange(0, TILE // 8)[None, :], ASM)
        inside = g < HIDDEN // 8
        v = decode(row, g, e, inside, FORMAT)
        n = v
        if NORMED:
            n = v * tl.load(norm + (g * 8 + e), mask=inside, other=0.0)
        store_groups(values, high, low, scale, squares, g, e, v, n, inside, ACT, ASM)
