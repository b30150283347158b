"""The embedding lookup: a token's row of the matrix, decoded from the file's own bytes into the residual stream."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernel_templates import formats
from kernel_templates.cuda.quantize import store_vector

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
def decode(row, g, inside, FORMAT: tl.constexpr):
    """Weights 8g..8g+7 of the row of bytes at `row`: float32 [G, 8] for g int32 [G], bit for bit what
    `formats.<FORMAT>.dequantize` gives. inside: mask [G].

    Groups of 8 because a group never crosses a scale, in any format.
    """
    e = tl.arange(0, 8)
    all8 = inside[:, None] & (e < 8)[None, :]
    if FORMAT == "Q4_0" or FORMAT == "Q4_1":
        BYTES: tl.constexpr = 18 if FORMAT == "Q4_0" else 20
        block = row + g // 4 * BYTES
        byte = tl.load((block + (BYTES - 16) + g % 2 * 8)[:, None] + e[None, :], mask=all8, other=0).to(tl.int32)
        quant = (byte >> (g % 4 // 2 * 4)[:, None]) & 15
        scale = load_f16(block, inside)
        if FORMAT == "Q4_0":
            return (quant - 8).to(tl.float32) * scale[:, None]
        # 4 bits times 11 are exact in float32, so a fused multiply-add rounds as the two steps do.
        return quant.to(tl.float32) * scale[:, None] + load_f16(block + 2, inside)[:, None]
    elif FORMAT == "Q8_0":
        block = row + g // 4 * 34
        byte = tl.load((block + 2 + g % 4 * 8)[:, None] + e[None, :], mask=all8, other=0)
        return byte.to(tl.int8, bitcast=True).to(tl.float32) * load_f16(block, inside)[:, None]
    elif FORMAT == "Q6_K":
        block = row + g // 32 * 210
        half, run, at = g % 32 // 16, g % 16 // 4, g % 4 * 8
        low = tl.load((block + half * 64 + run % 2 * 32 + at)[:, None] + e[None, :], mask=all8, other=0).to(tl.int32)
        high = tl.load((block + 128 + half * 32 + at)[:, None] + e[None, :], mask=all8, other=0).to(tl.int32)
        subscale = tl.load(block + 192 + g % 32 // 2, mask=inside, other=0).to(tl.int8, bitcast=True)
        quant = ((low >> (run // 2 * 4)[:, None]) & 15) | (((high >> (run * 2)[:, None]) & 3) << 4)
        return (quant - 32).to(tl.float32) * (load_f16(block + 208, inside) * subscale.to(tl.float32))[:, None]
    else:
        i = (g * 8)[:, None] + e[None, :]
        if FORMAT == "F16":
            return tl.load(row.to(tl.pointer_type(tl.float16), bitcast=True) + i, mask=all8, other=0.0).to(tl.float32)
        elif FORMAT == "BF16":
            return tl.load(row.to(tl.pointer_type(tl.bfloat16), bitcast=True) + i, mask=all8, other=0.0).to(tl.float32)
        else:
            tl.static_assert(FORMAT == "F32", "unknown weight format")
            return tl.load(row.to(tl.pointer_type(tl.float32), bitcast=True) + i, mask=all8, other=0.0)


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
    NORMED: tl.constexpr,
):  # fmt: skip
    """One program writes a whole vector: the row of `token` (a number in a register), quantized as row * norm.

    A token outside the vocabulary reads the nearest row there is.
    """
    token = tl.minimum(tl.maximum(token, 0), VOCAB - 1)
    row = raw + token.to(tl.int64) * row_bytes(FORMAT, HIDDEN)
    for first in tl.static_range(0, HIDDEN, TILE):
        g = first // 8 + tl.arange(0, TILE // 8)
        v = tl.reshape(decode(row, g, g < HIDDEN // 8, FORMAT), [TILE])
        n = v
        if NORMED:
            i = first + tl.arange(0, TILE)
            n = v * tl.load(norm + i, mask=i < HIDDEN, other=0.0)
        store_vector(values, high, low, scale, squares, first, v, n, HIDDEN, TILE, ACT, True)
