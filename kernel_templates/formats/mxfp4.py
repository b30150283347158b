"""MXFP4: 32 weights in 17 bytes, 4.25 bits a weight; quants are floats of 4 bits, E2M1, and the scale a power of two.

    byte 0       exponent of the scale
    bytes 1-16   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = 2^(exponent - 128) · CODEBOOK[quant]

The codebook has twice the values of E2M1, and the scale half of E8M0's, so that entries are integers. E2M1's negative
zero is read as zero.

Quantizing takes the exponent that puts the block's largest magnitude into E2M1's top binade, then the closest entry,
the first of two.

Source of the format: OCP Microscaling Formats (MX) Specification 1.0; `block_mxfp4` and `quantize_row_mxfp4_ref` in
ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields, exponent_scale
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.lazy import Tensor, torch

CODEBOOK = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TOP_BINADE = 2  # E2M1's largest value, 6, lies in [2^2, 2^3)


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 32] → fields."""
    largest = x.abs().amax(-1)
    # A float64 logarithm rounded to float32 once is what C's log2f gives at the edges of binades, and a float32 one
    # here need not be. Below the smallest exponent the byte wraps around, as in ggml built for x86-64.
    exponent = largest.double().log2().float().floor() - TOP_BINADE + 127
    exponent = (torch.where(largest > 0, exponent, 0).int() & 255).to(torch.uint8)
    scale = exponent_scale(exponent).unsqueeze(-1)
    quants, least = torch.zeros_like(x, dtype=torch.uint8), (CODEBOOK[0] * scale - x).abs()
    for number, entry in enumerate(CODEBOOK[1:], start=1):
        error = (entry * scale - x).abs()
        quants = torch.where(error < least, number, quants)
        least = torch.minimum(error, least)
    return Fields(quants, exponent)


FORMAT = Format(
    name="MXFP4",
    ggml_type=39,
    layout=Blocks(size=32, scale=0, exponent=True, quants=Codes(Bits(at=1, width=4, run=16), codebook=CODEBOOK)),
    quantizer=quantize,
)
