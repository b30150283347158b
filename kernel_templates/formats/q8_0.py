"""Q8_0: 32 weights in 34 bytes, 8.5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-33   32 quants, int8

weight = scale · quant

scale = max|weight| / 127; a quant is rounded to the nearest integer, halves away from zero.

Source of the format: `block_q8_0` and `quantize_row_q8_0_ref` in ggml.
"""

import torch
from torch import Tensor

from kernel_templates.formats.base import BLOCK_TOLERANCES, Format
from kernel_templates.formats.blocks import (
    byte_blocks,
    field,
    float_blocks,
    inverse_or_zero,
    join,
    round_half_away,
    to_small_int,
)

NAME, BLOCK, BLOCK_BYTES = "Q8_0", 32, 34


def quantize(x: Tensor) -> Tensor:
    """float32 [..., n] → uint8 [..., n // 32 * 34], as ggml does it."""
    blocks = float_blocks(x, NAME, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    quants = to_small_int(round_half_away(blocks * inverse_or_zero(scale)), torch.int8)
    return join([scale.to(torch.float16), quants])


def dequantize(data: Tensor) -> Tensor:
    """uint8 [..., bytes] → float32 [..., n]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    scale = field(blocks, 0, 2, torch.float16).float()
    return blocks[..., 2:].view(torch.int8).float().mul_(scale).flatten(-2)


def to_planes(data: Tensor) -> dict[str, Tensor]:
    """uint8 [rows, bytes] → quants int32 [rows, blocks, 8] (little-endian words), scale float16 [rows, blocks]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    return {
        "quants": field(blocks, 2, 34, torch.int32),
        "scale": field(blocks, 0, 2, torch.float16).squeeze(-1),
    }


def from_planes(planes: dict[str, Tensor]) -> Tensor:
    """The planes of `to_planes` → uint8 [rows, bytes]."""
    return join([planes["scale"].unsqueeze(-1), planes["quants"]])


FORMAT = Format(
    name=NAME,
    ggml_type=8,
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    quantize=quantize,
    dequantize=dequantize,
    to_planes=to_planes,
    from_planes=from_planes,
    tolerances=BLOCK_TOLERANCES,
)
