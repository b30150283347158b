"""Q2_K: 256 weights in 84 bytes, 2.625 bits a weight.

A super-block of 256 weights holds 16 sub-blocks of 16.

    bytes 0-15    byte j: sub-block j's subscale in its low half, its subminimum in its high half
    bytes 16-79   quants of 2 bits, two halves of 32 bytes for 128 weights each: byte l holds weights l, 32 + l, 64 + l,
                  96 + l, from bit 0 up
    bytes 80-81   scale, float16
    bytes 82-83   minimum, float16

weight = (scale · subscale) · quant - (minimum · subminimum), each product rounded to float32

Source of the format: `block_q2_K` and `quantize_row_q2_K_ref` in ggml.
"""

from kernel_templates.formats.affine_search import AffineSearch, magnitude
from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places

FORMAT = Format(
    name="Q2_K",
    ggml_type=10,
    layout=Blocks(
        size=256,
        scale=80,
        minimum=82,
        quants=Codes(Bits(at=16, width=2, run=32)),
        group=16,
        subscales=Codes(Places(4, tuple((j, 0) for j in range(16)))),
        subminimums=Codes(Places(4, tuple((j, 4) for j in range(16)))),
    ),
    quantizer=AffineSearch(first=-0.5, steps=15, weigh=magnitude, absolute=True).quantize,
)
