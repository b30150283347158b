"""Q5_1: 32 weights in 24 bytes, 6 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-3    minimum, float16
    bytes 4-7    the fifth bits: bit j of the 32 is weight j's
    bytes 8-23   the lower 4 bits: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · quant + minimum, the product rounded to float32 before the sum

Source of the format: `block_q5_1` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import affine

FORMAT = Format(
    name="Q5_1",
    ggml_type=7,
    layout=Blocks(
        size=32, scale=0, minimum=2, quants=Codes(low=Bits(at=8, width=4, run=16), high=Bits(at=4, width=1, run=1))
    ),
    quantizer=affine,
)
