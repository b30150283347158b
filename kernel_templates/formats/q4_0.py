"""Q4_0: 32 weights in 18 bytes, 4.5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-17   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · (quant - 8)

Source of the format: `block_q4_0` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import symmetric

FORMAT = Format(
    name="Q4_0",
    ggml_type=2,
    layout=Blocks(size=32, scale=0, quants=Codes(Bits(at=2, width=4, run=16), zero=8)),
    quantizer=symmetric,
)
