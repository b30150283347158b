"""Q5_0: 32 weights in 22 bytes, 5.5 bits a weight.

    bytes 0-1    scale, float16
    bytes 2-5    the fifth bits: bit j of the 32 is weight j's
    bytes 6-21   the lower 4 bits: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · (quant - 16)

Source of the format: `block_q5_0` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import symmetric

FORMAT = Format(
    name="Q5_0",
    ggml_type=6,
    layout=Blocks(
        size=32, scale=0, quants=Codes(low=Bits(at=6, width=4, run=16), high=Bits(at=2, width=1, run=1), zero=16)
    ),
    quantizer=symmetric,
)
