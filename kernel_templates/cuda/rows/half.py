"""Rounding to the float16 that many-token products read."""

import triton
import triton.language as tl

LIMIT = tl.constexpr(65504.0)
"""The largest finite float16."""


@triton.jit
def to_half(x):
    """float16, what is larger than the largest one made it; NaN stays, so that broken numbers are seen at the end."""
    x = tl.where(x > LIMIT, LIMIT, x)
    return tl.where(x < -LIMIT, -LIMIT, x).to(tl.float16)
