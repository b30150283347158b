"""Q5_K: 256 weights in 176 bytes, 5.5 bits a weight.

A super-block of 256 weights holds 8 sub-blocks of 32.

    bytes 0-1      scale, float16
    bytes 2-3      minimum, float16
    bytes 4-15     8 subscales and 8 subminimums of 6 bits, as in Q4_K
    bytes 16-47    the fifth bits: bit j of byte l is that of weight 32 · j + l
    bytes 48-175   the lower 4 bits, as in Q4_K

weight = (scale · subscale) · quant - (minimum · subminimum), each product rounded to float32

Source of the format: `block_q5_K` and `quantize_row_q5_K_ref` in ggml.
"""

from kernel_templates.formats.affine_search import AffineSearch, root_mean_square_and_magnitude
from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.q4_k import SUBMINIMUMS, SUBSCALES

FORMAT = Format(
    name="Q5_K",
    ggml_type=13,
    layout=Blocks(
        size=256,
        scale=0,
        minimum=2,
        quants=Codes(low=Bits(at=48, width=4, run=32), high=Bits(at=16, width=1, run=32)),
        group=32,
        subscales=SUBSCALES,
        subminimums=SUBMINIMUMS,
    ),
    quantizer=AffineSearch(first=-0.5, steps=15, weigh=root_mean_square_and_magnitude, absolute=False).quantize,
)
