"""What happens to a raw query or key head before attention: RMSNorm, then RoPE, as two multiplications an element.

    finished[d] = (x[d] own[d] + x[partner(d)] other[d]) / rms(x)        partner(d) = (d + rope_dim/2) mod rope_dim

own[d] = w[d] cos(d) and other[d] = -+ w[partner(d)] sin(d) depend on the position alone, so that they are ready before
the head is. A partner is loaded, not shuffled: the second load comes with the first. Elements from rope_dim on keep
their place (cos = 1, sin = 0). Any shape is taken whose last axis is the head's elements.
"""

import triton.language as tl

from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def rotation(weight, row, dim, scale, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, NORM: tl.constexpr):
    """(own, other), float32 of dim's shape, both times scale.

    weight: float32 [HEAD_DIM], read if NORM; row: the position's float32 [ROPE_DIM], cosines then sines;
    dim: int32, element numbers along the last axis, those from HEAD_DIM on being padding.
    """
    HALF: tl.constexpr = ROPE_DIM // 2
    turned = dim < ROPE_DIM
    cos = tl.load(row + dim % HALF, mask=turned, other=1.0)
    sin = tl.load(row + HALF + dim % HALF, mask=turned, other=0.0)
    own, other = cos * scale, tl.where(dim < HALF, -sin, sin) * scale
    if NORM:
        own = own * tl.load(weight + dim, mask=dim < HEAD_DIM, other=0.0)
        other = other * tl.load(weight + (dim + HALF) % ROPE_DIM)
    return own, other


@triton.jit
def load_head(head, dim, mask, ROPE_DIM: tl.constexpr):
    """(x, x of the partners): float32 elements `dim` of the heads at `head`, zeros outside the mask."""
    x = tl.load(head + dim, mask=mask, other=0.0)
    return x, tl.load(head + (dim + ROPE_DIM // 2) % ROPE_DIM, mask=mask, other=0.0)


@triton.jit
def rotate(x, partner, own, other):
    """What is left is the division by rms(x)."""
    return x * own + partner * other


@triton.jit
def inverse_rms(squares, eps, HEAD_DIM: tl.constexpr):
    """1 / rms(x) from the sum of x's squares."""
    return tl.rsqrt(squares * (1.0 / HEAD_DIM) + eps)


@triton.jit
def finish_head(x, partner, own, other, eps, AXIS: tl.constexpr, HEAD_DIM: tl.constexpr, NORM: tl.constexpr):
    """Normed and rotated heads of x's shape; AXIS is x's last."""
    out = rotate(x, partner, own, other)
    if NORM:
        out = out * inverse_rms(tl.sum(x * x, AXIS, keep_dims=True), eps, HEAD_DIM)
    return out
