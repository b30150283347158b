"""Q4_0: 32 weights in 18 bytes, 4.5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-17   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · (quant - 8)

The scale is the block's value of largest magnitude, sign included, divided by -8: that value gets quant 0, the only
end of the range that reaches 8 steps. Of equal magnitudes the first one counts.

Source of the format: `block_q4_0` and `quantize_row_q4_0_ref` in ggml.
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

NAME, BLOCK, BLOCK_BYTES = "Q4_0", 32, 18


def quantize(x: Tensor) -> Tensor:
    """float32 [..., n] → uint8 [..., n // 32 * 18], as ggml does it."""
    blocks = float_blocks(x, NAME, BLOCK)
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = (peak + 0.0) / -8  # ggml starts its maximum at +0, so a block of negative zeros counts as positive
    steps = blocks * inverse_or_zero(scale)
    quants = to_small_int(steps + 8.5, torch.uint8).clamp_max_(15)
    return join([scale.to(torch.float16), pack_nibbles(quants)])


def dequantize(data: Tensor) -> Tensor:
    """uint8 [..., bytes] → float32 [..., n]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    scale = field(blocks, 0, 2, torch.float16).float()
    return unpack_nibbles(blocks[..., 2:]).sub_(8).mul_(scale).flatten(-2)


def to_planes(data: Tensor) -> dict[str, Tensor]:
    """uint8 [rows, bytes] → quants int32 [rows, blocks, 4] (little-endian words), scale float16 [rows, blocks]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    return {
        "quants": field(blocks, 2, 18, torch.int32),
        "scale": field(blocks, 0, 2, torch.float16).squeeze(-1),
    }


def from_planes(planes: dict[str, Tensor]) -> Tensor:
    """The planes of `to_planes` → uint8 [rows, bytes]."""
    return join([planes["scale"].unsqueeze(-1), planes["quants"]])


FORMAT = Format(
    name=NAME,
    ggml_type=2,
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    quantize=quantize,
    dequantize=dequantize,
    to_planes=to_planes,
    from_planes=from_planes,
    tolerances=BLOCK_TOLERANCES,
)
