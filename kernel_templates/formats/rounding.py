"""Quantizers that several formats share, and the rounding that C code does in its own way."""

from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Blocks
from kernel_templates.lazy import Tensor, torch


def symmetric(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., size] → fields, by ggml's way for a scale and a zero in the middle (`quantize_row_q4_0_ref`).

    The scale is the block's value of largest magnitude, sign included, divided by -zero: that value gets quant 0, the
    only end of the range that reaches so many steps. Of equal magnitudes the first one counts.
    """
    zero = layout.quants.zero
    peak = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    scale = (peak + 0.0) / -zero  # ggml starts its maximum at +0, so a block of negative zeros counts as positive
    steps = x * inverse_or_zero(scale)
    quants = to_small_int(steps + (zero + 0.5), torch.uint8).clamp_max_(2 * zero - 1)
    return Fields(quants, scale.squeeze(-1))


def affine(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., size] → fields, by ggml's way for a scale and a minimum (`quantize_row_q4_1_ref`): the steps run
    from the block's minimum to its maximum."""
    largest = (1 << layout.quants.bits) - 1
    # Of zeros with different signs ggml keeps the first. So: the minimum by index, which a plain minimum does not
    # promise, and a scale that is never -0, because ggml's maximum and minimum are then the same zero.
    minimum = x.gather(-1, x.argmin(-1, keepdim=True))
    scale = (x.amax(-1, keepdim=True) - minimum + 0.0) / largest
    steps = (x - minimum) * inverse_or_zero(scale)
    quants = to_small_int(steps + 0.5, torch.uint8).clamp_max_(largest)
    return Fields(quants, scale.squeeze(-1), minimum.squeeze(-1))


def inverse_or_zero(scale: Tensor) -> Tensor:
    """1 / scale in float32, and 0 where the scale is 0."""
    return torch.where(scale == 0, 0.0, scale.reciprocal())


def to_small_int(x: Tensor, dtype: "torch.dtype") -> Tensor:
    """x cut to an 8-bit integer; 0 where x is not finite.

    A block whose scale is so small that 1 / scale overflows has quants of infinity · x. C leaves the conversion
    undefined; ggml built for x86-64 gets 0, the low byte of the processor's "no integer" answer, and so do we. (Such
    a scale is also 0 in float16, so that no bit of the quants reaches the weights.)
    """
    return torch.where(torch.isfinite(x), x, 0.0).to(dtype)


def round_half_away(x: Tensor) -> Tensor:
    """C's roundf: halves go away from zero. Adding 0.5 first would round 0.49999997 up."""
    whole = x.trunc()
    return whole + (2 * (x - whole)).trunc()


def nearest_int(x: Tensor) -> Tensor:
    """float32 → int32, halves to even, through the mantissa of x + 1.5 · 2^23. ggml's searches round this way, which
    also decides what becomes of NaN (0) and infinity (-2^22)."""
    return ((x + 12582912.0).view(torch.int32) & 0x7FFFFF) - 0x400000
