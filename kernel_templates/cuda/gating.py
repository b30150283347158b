"""The gates of the feed-forward half, and what their result is stored times in passes over many tokens."""

import triton.language as tl

from kernel_templates.cuda.instructions import reciprocal
from kernel_templates.cuda.lazy_triton import triton

GATED_SCALE = tl.constexpr(1 / 16)
"""What the activation is stored times: float16 ends at 65504, and products of two large numbers come near. Who reads
the product behind it multiplies it back."""

MINUS_TWO_ROOT = tl.constexpr(-1.5957691216057308)
"""-2 sqrt(2 / pi), of GELU's tanh form."""
OAI_ALPHA, OAI_LIMIT = tl.constexpr(1.702), tl.constexpr(7.0)
"""Of gpt-oss's gate."""


@triton.jit
def activate(x, GELU: tl.constexpr, ASM: tl.constexpr):
    """silu(x), or gelu(x) = x/2 (1 + tanh(s)) = x / (1 + e^-2s), s = sqrt(2/pi) (x + 0.044715 x^3)."""
    if GELU:
        return x * reciprocal(1.0 + tl.exp((x + 0.044715 * x * x * x) * MINUS_TWO_ROOT), ASM)
    else:
        return x * reciprocal(1.0 + tl.exp(-x), ASM)


@triton.jit
def gated_with(z, y, GATE: tl.constexpr, ASM: tl.constexpr):
    """silu(z) y, gelu(z) y or swiglu_oai: min(z, 7) sigmoid(1.702 min(z, 7)) (1 + clamp(y, -7, 7)), as gpt-oss has it
    (transformers 5.24, `GptOssExperts`). NaN stays."""
    if GATE == "gelu":  # z/2 (1 + tanh(s)) = z / (1 + e^-2s)
        return z * reciprocal(1.0 + tl.exp(MINUS_TWO_ROOT * (z + 0.044715 * z * z * z)), ASM) * y
    elif GATE == "swiglu_oai":
        z = tl.where(z > OAI_LIMIT, OAI_LIMIT, z)
        y = tl.where(y > OAI_LIMIT, OAI_LIMIT, y)
        y = tl.where(y < -OAI_LIMIT, -OAI_LIMIT, y)
        return z * reciprocal(1.0 + tl.exp(z * -OAI_ALPHA), ASM) * (1.0 + y)
    else:
        return z * reciprocal(1.0 + tl.exp(-z), ASM) * y
