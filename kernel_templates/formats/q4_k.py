"""Q4_K: 256 weights in 144 bytes, 4.5 bits a weight.

A super-block of 256 weights holds 8 sub-blocks of 32.

    bytes 0-1      scale, float16
    bytes 2-3      minimum, float16
    bytes 4-15     8 subscales and 8 subminimums of 6 bits (`SUBSCALES`, `SUBMINIMUMS`)
    bytes 16-143   4-bit quants, four times 32 bytes for 64 weights each: byte l holds weight l in its low half and
                   weight 32 + l in its high half

weight = (scale · subscale) · quant - (minimum · subminimum), each product rounded to float32

Source of the format: `block_q4_K`, `get_scale_min_k4` and `quantize_row_q4_K_ref` in ggml.
"""

from kernel_templates.formats.affine_search import AffineSearch, root_mean_square_and_magnitude
from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places

# Bytes 4 to 7 hold the first four subscales and 8 to 11 the first four subminimums, in their lower six bits; the two
# bits above them are the upper ones of the last four. Those share bytes 12 to 15 for their lower four bits.
SUBSCALES = Codes(
    low=Places(4, tuple((4 + j if j < 4 else 8 + j, 0) for j in range(8))),
    high=Places(2, tuple((4 + j % 4, 4 + j // 4 * 2) for j in range(8))),
)
SUBMINIMUMS = Codes(
    low=Places(4, tuple((8 + j, j // 4 * 4) for j in range(8))),
    high=Places(2, tuple((8 + j % 4, 4 + j // 4 * 2) for j in range(8))),
)

FORMAT = Format(
    name="Q4_K",
    ggml_type=12,
    layout=Blocks(
        size=256,
        scale=0,
        minimum=2,
        quants=Codes(Bits(at=16, width=4, run=32)),
        group=32,
        subscales=SUBSCALES,
        subminimums=SUBMINIMUMS,
    ),
    quantizer=AffineSearch(first=-1.0, steps=20, weigh=root_mean_square_and_magnitude, absolute=False).quantize,
)
