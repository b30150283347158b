"""Q6_K: 256 weights in 210 bytes, 6.5625 bits a weight.

A super-block of 256 weights holds 16 sub-blocks of 16.

    bytes 0-127     low: the lower 4 bits of the quants, two halves of 64 bytes for 128 weights each
    bytes 128-191   high: the upper 2 bits, two halves of 32 bytes
    bytes 192-207   16 subscales, int8, one a sub-block
    bytes 208-209   scale, float16

weight = (scale · subscale) · (quant - 32), the first product rounded to float32

Within a half, the 128 weights are four runs of 32. With l = 0..31, low byte l holds run 0 below and run 2 above, low
byte 32 + l holds run 1 below and run 3 above, and high byte l holds the upper bits of runs 0, 1, 2, 3, from bit 0 up.

Quantizing is a search. For every sub-block, 19 step sizes near max|weight| / 32 are tried, and the one whose quants
explain the weights best under the weight of their squares wins; its least-squares scale becomes the subscale. Then
the quants are rounded again against the scales as stored.

Source of the format: `block_q6_K`, `quantize_row_q6_K_ref` and `make_qx_quants` in ggml.
"""

import torch
from torch import Tensor

from kernel_templates.formats.base import BLOCK_TOLERANCES, Format
from kernel_templates.formats.blocks import as_bytes, byte_blocks, field, float_blocks, join

NAME, BLOCK, BLOCK_BYTES = "Q6_K", 256, 210
NEGLIGIBLE = 1e-15  # ggml stores a sub-block below this magnitude as zeros
CHUNK = 2048  # super-blocks searched at once: the search holds a dozen arrays of this size, which should stay in cache


def quantize(x: Tensor) -> Tensor:
    """float32 [..., n] → uint8 [..., n // 256 * 210], as ggml does it without an importance matrix."""
    blocks = float_blocks(x, NAME, BLOCK)
    supers = blocks.reshape(-1, 16, 16)
    packed = torch.cat([_quantize_supers(some) for some in supers.split(CHUNK)])
    return packed.view(*blocks.shape[:-2], blocks.shape[-2] * BLOCK_BYTES)


def _quantize_supers(supers: Tensor) -> Tensor:
    """float32 [count, 16 sub-blocks, 16] → uint8 [count, 210]."""
    fitted, quants = _fit(supers.reshape(-1, 16).T.contiguous())
    fitted, quants = fitted.view(-1, 16), quants.T.reshape(-1, 16, 16)

    # A fit that overflowed to NaN never counts as the largest, as in a C comparison.
    magnitude = fitted.abs().nan_to_num(nan=0.0, posinf=torch.inf)
    largest = fitted.gather(-1, magnitude.argmax(-1, keepdim=True))
    inverse = -128.0 / largest
    scale = inverse.reciprocal().to(torch.float16)
    subscale = _nearest_int(inverse * fitted).clamp_max(127).to(torch.int8)
    step = (scale.float() * subscale)[..., None]
    refined = _nearest_int(supers / step).clamp(-32, 31) + 32
    quants = torch.where(step == 0, quants, refined).to(torch.uint8)

    packed = torch.cat([*_pack(quants), as_bytes(subscale), as_bytes(scale)], dim=-1)
    packed[magnitude.amax(-1) < NEGLIGIBLE] = 0
    return packed


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sub-blocks float32 [16, count] → least-squares scale float32 [count], quants int32 [16, count] in 0..63.

    All sums run in float32 over the 16 elements in order: which candidate wins can depend on the last bit.
    """
    peak = x.gather(0, x.abs().argmax(0, keepdim=True))[0]
    weight = x * x
    weighted = weight * x
    for shift in (0, *range(-9, 0), *range(1, 10)):
        levels = torch.tensor(0.1) * shift + 32
        candidate = _nearest_int(x * (-levels / peak)).clamp_(-32, 31)
        sum_xl, sum_ll = torch.zeros_like(peak), torch.zeros_like(peak)
        for weight_i, weighted_i, level in zip(weight, weighted, candidate.float(), strict=True):
            sum_xl += weighted_i * level
            sum_ll += weight_i * level * level
        fit = sum_xl / sum_ll
        if shift == 0:
            scale = torch.where(sum_ll == 0, 0.0, fit)
            best, quants = scale * sum_xl, candidate
        else:
            better = (sum_ll > 0) & (sum_xl * sum_xl > best * sum_ll)
            scale = torch.where(better, fit, scale)
            best = torch.where(better, fit * sum_xl, best)
            quants = torch.where(better, candidate, quants)
    negligible = peak.abs() < NEGLIGIBLE
    return torch.where(negligible, 0.0, scale), torch.where(negligible, 0, quants + 32)


def _nearest_int(x: Tensor) -> Tensor:
    """float32 → int32, halves to even, through the mantissa of x + 1.5 · 2^23. ggml rounds this way, which also
    decides what becomes of NaN (0) and infinity (-2^22)."""
    return ((x + 12582912.0).view(torch.int32) & 0x7FFFFF) - 0x400000


def _pack(quants: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [supers, 16, 16] in 0..63 → low uint8 [supers, 128], high uint8 [supers, 64]."""
    runs = quants.reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | (runs[:, :, 2:] << 4)
    upper = runs >> 4
    high = upper[:, :, 0] | (upper[:, :, 1] << 2) | (upper[:, :, 2] << 4) | (upper[:, :, 3] << 6)
    return low.reshape(-1, 128), high.reshape(-1, 64)


def dequantize(data: Tensor) -> Tensor:
    """uint8 [..., bytes] → float32 [..., n]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    low = blocks[..., :128].unflatten(-1, (2, 2, 32))
    high = blocks[..., 128:192].unflatten(-1, (2, 32))
    out = torch.empty((*blocks.shape[:-1], 2, 4, 32), dtype=torch.float32)
    for run in range(4):
        upper = (high >> 2 * run) & 3
        half = low[..., run % 2, :]
        out[..., run, :] = (upper << 4).bitwise_or_(half & 15 if run < 2 else half >> 4)
    scale = field(blocks, 208, 210, torch.float16).float() * blocks[..., 192:208].view(torch.int8)
    return out.sub_(32).view(*blocks.shape[:-1], 16, 16).mul_(scale[..., None]).flatten(-3)


def to_planes(data: Tensor) -> dict[str, Tensor]:
    """uint8 [rows, bytes] → low int32 [rows, supers, 32] and high int32 [rows, supers, 16] (little-endian words),
    subscale int8 [rows, supers, 16], scale float16 [rows, supers]."""
    blocks = byte_blocks(data, NAME, BLOCK_BYTES)
    return {
        "low": field(blocks, 0, 128, torch.int32),
        "high": field(blocks, 128, 192, torch.int32),
        "subscale": field(blocks, 192, 208, torch.int8),
        "scale": field(blocks, 208, 210, torch.float16).squeeze(-1),
    }


def from_planes(planes: dict[str, Tensor]) -> Tensor:
    """The planes of `to_planes` → uint8 [rows, bytes]."""
    return join([planes["low"], planes["high"], planes["subscale"], planes["scale"].unsqueeze(-1)])


FORMAT = Format(
    name=NAME,
    ggml_type=14,
    block=BLOCK,
    block_bytes=BLOCK_BYTES,
    quantize=quantize,
    dequantize=dequantize,
    to_planes=to_planes,
    from_planes=from_planes,
    tolerances=BLOCK_TOLERANCES,
)
