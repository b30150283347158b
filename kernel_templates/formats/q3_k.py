"""Q3_K: 256 weights in 110 bytes, 3.4375 bits a weight.

A super-block of 256 weights holds 16 sub-blocks of 16.

    bytes 0-31      the third bits: bit j of byte l is that of weight 32 · j + l
    bytes 32-95     the lower 2 bits, two halves of 32 bytes for 128 weights each: byte l holds weights l, 32 + l,
                    64 + l, 96 + l, from bit 0 up
    bytes 96-107    16 subscales of 6 bits: bytes 96 to 103 have the lower 4 bits of subscales 0 to 7 below and of 8 to
                    15 above, byte 104 + l the upper bits of l, 4 + l, 8 + l, 12 + l, from bit 0 up
    bytes 108-109   scale, float16

weight = (scale · (subscale - 32)) · (quant - 4), the first product rounded to float32

Quantizing a sub-block starts from the plain rounding, then moves one quant after the other, five times round, where
that raises the least-squares fit. The scales become subscales, and the quants are rounded again against them.

Source of the format: `block_q3_K`, `quantize_row_q3_K_ref` and `make_q3_quants` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places
from kernel_templates.formats.rounding import nearest_int
from kernel_templates.formats.signed_search import NEGLIGIBLE, in_chunks, largest
from kernel_templates.lazy import Tensor, torch

ROUNDS = 5


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 256] → fields, without an importance matrix."""
    return in_chunks(x, _fit, _store)


def _store(supers: Tensor, fitted: Tensor, quants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `in_chunks` asks for it."""
    peak, magnitude = largest(fitted)
    there = magnitude > 0
    inverse = -32.0 / peak
    scale = torch.where(there, inverse.reciprocal(), 0.0).to(torch.float16)
    subscale = nearest_int(inverse * fitted).to(torch.int8).clamp(-32, 31)
    subscale = torch.where(there, subscale, -32)
    step = (scale.float() * subscale)[..., None]
    refined = nearest_int(supers / step).clamp(-4, 3) + 4
    quants = torch.where(step == 0, quants, refined).to(torch.uint8)
    return quants.flatten(-2), (subscale + 32).to(torch.uint8), scale.squeeze(-1)


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sub-blocks float32 [16, count] → least-squares scale float32 [count], quants int32 [16, count] in 0..7.

    All sums run in float32 over the 16 elements in order: which candidate wins can depend on the last bit.
    """
    peak = x.gather(0, x.abs().argmax(0, keepdim=True))[0]
    weight = x * x
    weighted = weight * x
    levels = nearest_int(x * (-4.0 / peak)).clamp_(-4, 3).float()
    sum_xl, sum_ll = torch.zeros_like(peak), torch.zeros_like(peak)
    for weight_i, weighted_i, level in zip(weight, weighted, levels, strict=True):
        sum_xl += weighted_i * level
        sum_ll += weight_i * level * level
    for _ in range(ROUNDS):
        for i, (x_i, weight_i, weighted_i) in enumerate(zip(x, weight, weighted, strict=True)):
            level = levels[i]
            rest_xl, rest_ll = sum_xl - weighted_i * level, sum_ll - weight_i * level * level
            moved = nearest_int(x_i * rest_ll / rest_xl).clamp_(-4, 3).float()
            new_xl, new_ll = rest_xl + weighted_i * moved, rest_ll + weight_i * moved * moved
            better = new_xl * new_xl * sum_ll > sum_xl * sum_xl * new_ll
            better &= (rest_xl > 0) & (moved != level) & (new_ll > 0)
            levels[i], sum_xl, sum_ll = (
                torch.where(better, new, old) for new, old in ((moved, level), (new_xl, sum_xl), (new_ll, sum_ll))
            )
    scale = torch.where(sum_ll > 0, sum_xl / sum_ll, 0.0)
    negligible = peak.abs() < NEGLIGIBLE
    return torch.where(negligible, 0.0, scale), torch.where(negligible, 0, levels.int() + 4)


FORMAT = Format(
    name="Q3_K",
    ggml_type=11,
    layout=Blocks(
        size=256,
        scale=108,
        quants=Codes(low=Bits(at=32, width=2, run=32), high=Bits(at=0, width=1, run=32), zero=4),
        group=16,
        subscales=Codes(
            low=Places(4, tuple((96 + j % 8, j // 8 * 4) for j in range(16))),
            high=Places(2, tuple((104 + j % 4, j // 4 * 2) for j in range(16))),
            zero=32,
        ),
    ),
    quantizer=quantize,
)
