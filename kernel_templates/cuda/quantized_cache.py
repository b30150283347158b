"""A KV cache of 8 bits on the GPU: heads into bytes and a scale when they are written, and back when they are read.

Format "q8_0" of `attention.cache`: int8 in the place of float16, and one float32 scale for each position and head. A
scale is the same for all elements of a head, so readers leave it out of their sums: scores are multiplied with the
scale of their key, weights with that of their value.
"""

import triton.language as tl

from kernel_templates.cuda.instructions import round_to_int
from kernel_templates.cuda.lazy_triton import triton

LARGEST = tl.constexpr(127.0)
"""Of the integers. Weights that become float16 are multiplied with a value's largest element, which is its scale times
this, and outputs are divided by it: so weights are no smaller than beside values in float16."""


@triton.jit
def quantize(x, AXIS: tl.constexpr):
    """(int8 of float32 x's shape, float32 scales with a 1 for AXIS, the last). Of a head that is not all numbers the
    scale is none either, so that it is seen at the end."""
    scale, inverse = _steps(tl.max(tl.abs(x), AXIS, keep_dims=True), tl.sum(x * 0.0, AXIS, keep_dims=True))
    return round_to_int(x * inverse).to(tl.int8), scale


@triton.jit
def quantize_pairs(x, y, AXIS: tl.constexpr):
    """The same of heads whose elements are in two tensors."""
    largest = tl.max(tl.maximum(tl.abs(x), tl.abs(y)), AXIS, keep_dims=True)
    scale, inverse = _steps(largest, tl.sum(x * 0.0 + y * 0.0, AXIS, keep_dims=True))
    return round_to_int(x * inverse).to(tl.int8), round_to_int(y * inverse).to(tl.int8), scale


@triton.jit
def _steps(largest, nothing):
    """A scale and what elements are multiplied with; nothing: 0, or what is no number."""
    inverse = tl.where(largest > 0, LARGEST / tl.where(largest > 0, largest, 1.0), 0.0)
    return largest * (1.0 / LARGEST) + nothing, inverse


@triton.jit
def to_halves(x, ASM: tl.constexpr):
    """float16 of int8 x, four at a time: a byte with its sign turned is the end of a float16 between 1024 and 1279.
    Conversions of single numbers go at half the rate of additions, and have to take words apart before."""
    if ASM:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64806480; xor.b32 t, $2, 0x80808080;"
            " prmt.b32 $0, t, 0x64646464, 0x4140; prmt.b32 $1, t, 0x64646464, 0x4342;"
            " sub.f16x2 $0, $0, c; sub.f16x2 $1, $1, c; }",
            "=r,=r,r", [x], dtype=tl.float16, is_pure=True, pack=4,
        )  # fmt: skip
    else:
        return x.to(tl.float16)
