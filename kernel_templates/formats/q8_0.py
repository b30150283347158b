"""Q8_0: 32 weights in 34 bytes, 8.5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-33   32 quants, int8

weight = scale · quant

scale = max|weight| / 127; a quant is rounded to the nearest integer, halves away from zero.

Source of the format: `block_q8_0` and `quantize_row_q8_0_ref` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import inverse_or_zero, round_half_away, to_small_int
from kernel_templates.lazy import Tensor, torch


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 32] → fields."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    quants = to_small_int(round_half_away(x * inverse_or_zero(scale)), torch.int8)
    return Fields(quants.view(torch.uint8), scale.squeeze(-1))


FORMAT = Format(
    name="Q8_0",
    ggml_type=8,
    layout=Blocks(size=32, scale=0, quants=Codes(Bits(at=2, width=8, run=32), signed=True)),
    quantizer=quantize,
)
