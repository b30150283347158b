"""IQ4_XS: 256 weights in 136 bytes, 4.25 bits a weight; quants are numbers of entries of IQ4_NL's codebook.

A super-block of 256 weights holds 8 sub-blocks of 32.

    bytes 0-1     scale, float16
    bytes 2-3     the upper 2 bits of 8 subscales, from bit 0 up
    bytes 4-7     the lower 4 bits of the subscales, two a byte
    bytes 8-135   4-bit quants, 16 bytes a sub-block: byte j holds weight j in its low half and weight j + 16 in its
                  high half

weight = (scale · (subscale - 32)) · CODEBOOK[quant], the first product rounded to float32

Quantizing finds a scale for each sub-block as IQ4_NL does; of these, the largest is subscale 0.

Source of the format: `block_iq4_xs` and `quantize_row_iq4_nl_impl` in ggml.
"""

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.iq4_nl import CODEBOOK, fit, nearest_number
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places
from kernel_templates.formats.rounding import inverse_or_zero, nearest_int
from kernel_templates.lazy import Tensor, torch


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 256] → fields, without an importance matrix."""
    fitted = fit(x.reshape(-1, 32).T.contiguous()).view(*x.shape[:-1], 8)
    magnitude = fitted.abs().nan_to_num(nan=0.0, posinf=torch.inf)
    largest = fitted.gather(-1, magnitude.argmax(-1, keepdim=True))
    scale = torch.where(magnitude.amax(-1, keepdim=True) > 0, largest, 0.0) / -32
    subscales = nearest_int(inverse_or_zero(scale) * fitted).clamp(-32, 31)
    inverse = inverse_or_zero(scale * subscales)
    quants = nearest_number(x.unflatten(-1, (8, 32)) * inverse[..., None])
    return Fields(quants.flatten(-2), scale.squeeze(-1), subscales=(subscales + 32).to(torch.uint8))


FORMAT = Format(
    name="IQ4_XS",
    ggml_type=23,
    layout=Blocks(
        size=256,
        scale=0,
        quants=Codes(Bits(at=8, width=4, run=16), codebook=CODEBOOK),
        group=32,
        subscales=Codes(
            low=Places(4, tuple((4 + j // 2, j % 2 * 4) for j in range(8))),
            high=Places(2, tuple((2 + j // 4, j % 4 * 2) for j in range(8))),
            zero=32,
        ),
    ),
    quantizer=quantize,
)
