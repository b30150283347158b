"""Q6_K: 256 weights in 210 bytes, 6.5625 bits a weight.

A super-block of 256 weights holds 16 sub-blocks of 16.

    bytes 0-127     low: the lower 4 bits of the quants, two halves of 64 bytes for 128 weights each
    bytes 128-191   high: the upper 2 bits, two halves of 32 bytes
    bytes 192-207   16 subscales, int8, one a sub-block
    bytes 208-209   scale, float16

weight = (scale · subscale) · (quant - 32), the first product rounded to float32

Within a half, low byte l = 0..63 holds weight l below and weight 64 + l above, and high byte l = 0..31 holds the upper
bits of weights l, 32 + l, 64 + l, 96 + l, from bit 0 up.

Quantizing is a search. For every sub-block, 19 step sizes near max|weight| / 32 are tried, and the one whose quants
explain the weights best under the weight of their squares wins; its least-squares scale becomes the subscale. Then
the quants are rounded again against the scales as stored.

Source of the format: `block_q6_K`, `quantize_row_q6_K_ref` and `make_qx_quants` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import nearest_int
from kernel_templates.formats.signed_search import NEGLIGIBLE, in_chunks, largest
from kernel_templates.lazy import Tensor, torch


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 256] → fields, without an importance matrix."""
    return in_chunks(x, _fit, _store)


def _store(supers: Tensor, fitted: Tensor, quants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `in_chunks` asks for it."""
    peak, magnitude = largest(fitted)
    inverse = -128.0 / peak
    scale = inverse.reciprocal().to(torch.float16)
    subscale = nearest_int(inverse * fitted).clamp_max(127).to(torch.int8)
    step = (scale.float() * subscale)[..., None]
    refined = nearest_int(supers / step).clamp(-32, 31) + 32
    quants = torch.where(step == 0, quants, refined).to(torch.uint8)

    negligible = magnitude < NEGLIGIBLE
    fields = (quants.flatten(-2), subscale.view(torch.uint8), scale)
    quants, subscale, scale = (torch.where(negligible, field.new_zeros(()), field) for field in fields)
    return quants, subscale, scale.squeeze(-1)


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sub-blocks float32 [16, count] → least-squares scale float32 [count], quants int32 [16, count] in 0..63.

    All sums run in float32 over the 16 elements in order: which candidate wins can depend on the last bit.
    """
    peak = x.gather(0, x.abs().argmax(0, keepdim=True))[0]
    weight = x * x
    weighted = weight * x
    for shift in (0, *range(-9, 0), *range(1, 10)):
        levels = torch.tensor(0.1) * shift + 32
        candidate = nearest_int(x * (-levels / peak)).clamp_(-32, 31)
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


FORMAT = Format(
    name="Q6_K",
    ggml_type=14,
    layout=Blocks(
        size=256,
        scale=208,
        quants=Codes(low=Bits(at=0, width=4, run=64), high=Bits(at=128, width=2, run=32), zero=32),
        group=16,
        subscales=Codes(Bits(at=192, width=8, run=16), signed=True),
    ),
    quantizer=quantize,
)
