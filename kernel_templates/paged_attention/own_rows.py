"""Heads of a pass's own rows, finished where they are used: bias, QK-norm and RoPE as `cuda.rows.append` has them.

Raw heads are float32 [rows, HEADS + 2 KV_HEADS, HEAD_DIM]: queries, keys and values, as their product gives them.
"""

import triton.language as tl

from kernel_templates.cuda.heads import finish_head, inverse_rms, load_head, rotation
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def load_raw(
    qkv, bias, row, head, kept,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, ROPE_DIM: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """Heads `head` of rows `row`, both [n], where `kept`, and zeros elsewhere: float32 [n, DIMS] and their partners."""
    dim = tl.broadcast_to(tl.arange(0, DIMS)[None, :], (row.shape[0], DIMS))
    mask = kept[:, None] & (dim < HEAD_DIM)
    at = (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
    x, partner = load_head(qkv + at[:, None], dim, mask, ROPE_DIM)
    if BIAS:
        b, partner_b = load_head(bias + (head * HEAD_DIM)[:, None], dim, mask, ROPE_DIM)
        x, partner = x + b, partner + partner_b
    return x, partner


@triton.jit
def load_values(
    qkv, bias, row, head, kept, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, BIAS: tl.constexpr,
    V_NORM: tl.constexpr,
):  # fmt: skip
    """As `load_raw`, without partners; over their RMS if V_NORM."""
    dim = tl.broadcast_to(tl.arange(0, DIMS)[None, :], (row.shape[0], DIMS))
    mask = kept[:, None] & (dim < HEAD_DIM)
    at = (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
    x = tl.load(qkv + at[:, None] + dim, mask=mask, other=0.0)
    if BIAS:
        x += tl.load(bias + (head * HEAD_DIM)[:, None] + dim, mask=mask, other=0.0)
    if V_NORM:
        x *= inverse_rms(tl.sum(x * x, 1, keep_dims=True), eps, HEAD_DIM)
    return x


@triton.jit
def turns(
    norm, rope, position, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, ROPE_DIM: tl.constexpr, QK_NORM: tl.constexpr
):
    """What heads and their partners at `position` [n] are multiplied with, float32 [n, DIMS] each; of a negative one,
    as at 0. norm: float32 [HEAD_DIM]; rope: float32 [capacity, ROPE_DIM], cosines then sines."""
    # What rows share is loaded by the threads that have the rows: a row of it would go through shared memory.
    dim = tl.broadcast_to(tl.arange(0, DIMS)[None, :], (position.shape[0], DIMS))
    row = rope + (tl.maximum(position, 0).to(tl.int64) * ROPE_DIM)[:, None]
    return rotation(norm, row, dim, 1.0, HEAD_DIM, ROPE_DIM, QK_NORM)


@triton.jit
def finished(x, partner, own, other, eps, HEAD_DIM: tl.constexpr, QK_NORM: tl.constexpr):
    """float16 [n, DIMS]: heads and their partners [n, DIMS] as attention reads them, own and other from `turns`."""
    return to_half(finish_head(x, partner, own, other, eps, 1, HEAD_DIM, QK_NORM))
