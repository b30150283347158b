"""Q4_1: 32 weights in 20 bytes, 5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-3    minimum, float16
    bytes 4-19   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · quant + minimum, the product rounded to float32 before the sum

The 16 steps run from the block's minimum to its maximum: scale = (maximum - minimum) / 15.

Source of the format: `block_q4_1` and `quantize_row_q4_1_ref` in ggml.
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
    pack_nibbles,
    to_small_int,
    unpack_nibbles,
)

NAME, BLOCK, BLOCK_BYTES = "Q4_1", 32, 20


def quantize(x: Tensor) -> Tensor:
    """float32 [..., n] → uint8 [..., n // 32 * 20], as ggml does it."""
    blocks = float_blocks(x, NAME, BLOCK)
    # Of zeros with different signs ggml keeps the first. So: the minimum by index, which a plain minimum does not
    # promise, and a scale that is never -0, because ggml's maximum and minimum are then the same zero.
    minimum = blocks.gather(-1, blocks.argmin(-1, keepdim=True))
    scale = (blocks.amax(-1, keepdim=True) - minimum + 0.0) / 15
    steps = (blocks - minimum) * inverse_or_zero(scale)
    quants = to_small_int(steps + 0.5, torch.uint8).clamp_max_(15)
    return join([scale.to(torch.float16), minimum.to(torch.float16), pack_nibbles(quants)])


def dequantize(data: Tensor) -> Tensor:
    """uint8 [..., bytes] → float32 [..., n]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    scale = field(blocks, 0, 2, torch.float16).float()
    minimum = field(blocks, 2, 4, torch.float16).float()
    return unpack_nibbles(blocks[..., 4:]).mul_(scale).add_(minimum).flatten(-2)


def to_planes(data: Tensor) -> dict[str, Tensor]:
    """uint8 [rows, bytes] → quants int32 [rows, blocks, 4] (little-endian words), scale and minimum float16
    [rows, blocks]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    return {
        "quants": field(blocks, 4, 20, torch.int32),
        "scale": field(blocks, 0, 2, torch.float16).squeeze(-1),
        "minimum": field(blocks, 2, 4, torch.float16).squeeze(-1),
    }


def from_planes(planes: dict[str, Tensor]) -> Tensor:
    """The planes of `to_planes` → uint8 [rows, bytes]."""
    return join([planes["scale"].unsqueeze(-1), planes["minimum"].unsqueeze(-1), planes["quants"]])


FORMAT = Format(
    name=NAME,
    ggml_type=3,
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    quantize=quantize,
    dequantize=dequantize,
    to_planes=to_planes,
    from_planes=from_planes,
    tolerances=BLOCK_TOLERANCES,
)
