"""Q4_1: 32 weights in 20 bytes, 5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-3    minimum, float16
    bytes 4-19   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · quant + minimum, the product rounded to float32 before the sum

Source of the format: `block_q4_1` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import affine

FORMAT = Format(
    name="Q4_1",
    ggml_type=3,
    layout=Blocks(size=32, scale=0, minimum=2, quants=Codes(Bits(at=4, width=4, run=16))),
    quantizer=affine,
)
