"""What every kernel of a gated delta net is made of: the short convolution, the gates, one step of the recurrence.

A head's state is float32 [k, v] on a GPU, values beside each other: a program has all keys of some columns of values,
and what it sums over keys stays inside it.
"""

import triton.language as tl

from kernel_templates.cuda.gating import activate
from kernel_templates.cuda.lazy_triton import triton

SERIES_BELOW = tl.constexpr(1 / 16)
"""log(1 + e) of smaller e comes from its series: the sum with 1 would round e away, which is all of a slow decay."""


@triton.jit
def softplus(x):
    """log(1 + exp(x)), to a few units in the last place also where it is nearly 0."""
    e = tl.exp(-tl.abs(x))
    series = e * (1 - e * (1 / 2 - e * (1 / 3 - e * (1 / 4 - e * (1 / 5 - e * (1 / 6))))))
    return tl.maximum(x, 0.0) + tl.where(e < SERIES_BELOW, series, tl.log(1 + e))


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def earlier(
    rows, conv_state, conv, channel, mask, position, before,
    KERNEL: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The part of the convolution that rows before this one make, float32 of the shape of `channel`.

    rows: the row's own projections, behind those of the `before` rows of its text that the pass has before it; SIZE: of
    a row. conv_state: [KERNEL, CHANNELS] of the text, what lies further back; conv: [KERNEL, CHANNELS].
    """
    total = tl.zeros(channel.shape, tl.float32)
    for back in tl.static_range(1, KERNEL):
        at = position - back
        kept = conv_state + tl.maximum(at, 0) % KERNEL * CHANNELS + channel
        source = tl.where(before >= back, rows - back * SIZE + channel, kept)
        tap = tl.load(conv + (KERNEL - 1 - back) * CHANNELS + channel, mask=mask, other=0.0)
        total += tap * tl.load(source, mask=mask & (at >= 0), other=0.0)
    return total


@triton.jit
def convolved(total, rows, conv, channel, mask, KERNEL: tl.constexpr, CHANNELS: tl.constexpr, ASM: tl.constexpr):
    """silu of the convolution, `total` being what `earlier` gives; zeros outside the mask."""
    tap = tl.load(conv + (KERNEL - 1) * CHANNELS + channel, mask=mask, other=0.0)
    return activate(total + tap * tl.load(rows + channel, mask=mask, other=0.0), False, ASM)


@triton.jit
def _two_sums(a, b, c, d):
    return a + c, b + d


@triton.jit
def _three_sums(a, b, c, d, e, f):
    return a + d, b + e, c + f


@triton.jit
def recur(state, q, k, v, log_decay, gate, eps, HEAD_DIM: tl.constexpr):
    """One row of one head: the state [k, v] after it, and its output [v], before the norm.

    q, k: [k], not normed: their norms, as the decay, are numbers that commute with the products. So all sums over keys
    are taken of the state as it was, at once:

        S' = d S + (k / |k|) u,   u = gate (v - d S k / |k|),   S' q / |q| = (d S q + (k q / |k|) u) / |q|
    """
    decay = tl.exp(log_decay)
    recalled, read = tl.reduce((state * k[:, None], state * q[:, None]), 0, _two_sums)
    of_k, of_q, common = tl.reduce((k * k, q * q, k * q), 0, _three_sums)
    of_k, of_q = tl.rsqrt(of_k + eps), tl.rsqrt(of_q + eps) * (HEAD_DIM**-0.5)
    learned = gate * (v - decay * of_k * recalled)
    out = of_q * (decay * read + of_k * common * learned)
    return decay * state + (of_k * k)[:, None] * learned[None, :], out
