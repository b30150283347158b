"""The gate of the feed-forward half in passes over many tokens: the function, and what its result is stored times."""

import triton
import triton.language as tl

from kernel_templates.cuda.instructions import reciprocal

GATED_SCALE = tl.constexpr(1 / 16)
"""What the activation is stored times: float16 ends at 65504, and products of two large numbers come near. Who reads
the product behind it multiplies it back."""

MINUS_TWO_ROOT = tl.constexpr(-1.5957691216057308)
"""-2 sqrt(2 / pi), of GELU's tanh form."""


@triton.jit
def activate(x, GELU: tl.constexpr, ASM: tl.constexpr):
    """silu(x), or gelu(x) = x/2 (1 + tanh(s)) = x / (1 + e^-2s), s = sqrt(2/pi) (x + 0.044715 x^3)."""
    if GELU:
        return x * reciprocal(1.0 + tl.exp((x + 0.044715 * x * x * x) * MINUS_TWO_ROOT), ASM)
    else:
        return x * reciprocal(1.0 + tl.exp(-x), ASM)
