"""Few rows on tensor cores: what a thread loads in 16 bytes is what it multiplies.

Of a product of 16 rows, 16 columns and 8 (mma.m16n8k16) thread 4 g + j has, of the left operand, rows g and g + 8 and
columns 2j, 2j + 1, 2j + 8 and 2j + 9, those as rows of the right one, whose column g it has, and of the result columns
2j and 2j + 1. Which elements of a head and which positions those are is free, as long as both sides agree. So tensors
are [4, 8, W, ...], j, g and one of W warps, and behind these axes a thread has

    keys     [T, C, EK]        position 8 t + g of its warp's 8 T, elements (4 c + j) EK + i
    values   [T, 2, CC, EV]    position 8 t + 2 j + e, elements (8 cc + g) EV + i
    scores   [T, 2]            line g, position 8 t + 2 j + e
    outputs  [CC, 2, EV]       line g, elements (8 cc + 2 j + e) EV + i

Where an operand has been bytes, Triton takes thread 4 g + j to have columns 4 j to 4 j + 3 (its kWidth is 4, not 2),
and a product's columns are put into that order: BYTES.

A line is one query head of one row of the pass; there are at most 8, and rows 8 to 15 of a product are of no use. EK
and EV are what 16 bytes hold: 8 elements of float16, 16 of int8, fewer where heads are short.

Nothing here uses `tl.join`: behind it Triton expects weights of 4 bits, and gives a thread other columns.
"""

import triton.language as tl

from kernel_templates.attention.scores import UNSEEN, capped, inner_factor, outer_factor, sink_weight
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantized_cache import LARGEST


@triton.jit
def of_keys(k, BYTES: tl.constexpr):
    """[W, DIMS, 8 T], the right operand of scores."""
    W: tl.constexpr = k.shape[2]
    T: tl.constexpr = k.shape[3]
    C: tl.constexpr = k.shape[4]
    EK: tl.constexpr = k.shape[5]
    k = tl.reshape(k, [4, 8, W, T, C, EK // 4, 2, 2])
    # w c a j p e t g, or w c a p j e t g
    k = tl.permute(k, (2, 4, 5, 0, 6, 7, 3, 1)) if BYTES else tl.permute(k, (2, 4, 5, 6, 0, 7, 3, 1))
    return tl.reshape(k, [W, 4 * EK * C, 8 * T])


@triton.jit
def of_values(v, BYTES: tl.constexpr):
    """[W, 8 T, DIMS], the right operand of outputs."""
    W: tl.constexpr = v.shape[2]
    T: tl.constexpr = v.shape[3]
    DIMS: tl.constexpr = 8 * v.shape[5] * v.shape[6]
    if BYTES:
        v = tl.reshape(v, [4, 8, W, T // 2, 2, 2, v.shape[5], v.shape[6]])
        return tl.reshape(tl.permute(v, (2, 3, 0, 4, 5, 6, 7, 1)), [W, 8 * T, DIMS])  # w t j u e cc i g
    else:
        return tl.reshape(tl.permute(v, (2, 3, 0, 4, 5, 6, 1)), [W, 8 * T, DIMS])  # w t j e cc i g


@triton.jit
def of_rows(x, W: tl.constexpr, EK: tl.constexpr, BYTES: tl.constexpr):
    """[W, 16, DIMS], the left operand of scores, of a program's n rows [n, DIMS], all of them for each warp, again and
    again. EK: elements that a thread loads of a key at once."""
    N: tl.constexpr = x.shape[0]
    DIMS: tl.constexpr = x.shape[1]
    x = tl.reshape(x, [N, DIMS // 4 // EK, 4, EK // 4, 2, 2])
    # c a j p e, or c a p j e
    x = tl.permute(x, (0, 1, 3, 2, 4, 5)) if BYTES else tl.permute(x, (0, 1, 3, 4, 2, 5))
    return _for_warps(tl.reshape(x, [N, DIMS]), W)


@triton.jit
def of_own_values(x, W: tl.constexpr, EV: tl.constexpr):
    """[W, 16, DIMS], the right operand of outputs, of n rows [n, DIMS]."""
    N: tl.constexpr = x.shape[0]
    DIMS: tl.constexpr = x.shape[1]
    x = tl.permute(tl.reshape(x, [N, DIMS // 8 // EV, 8, EV]), (0, 1, 3, 2))  # cc i g
    return _for_warps(tl.reshape(x, [N, DIMS]), W)


@triton.jit
def _for_warps(x, W: tl.constexpr):
    N: tl.constexpr = x.shape[0]
    DIMS: tl.constexpr = x.shape[1]
    return tl.reshape(tl.broadcast_to(x[None, None], [W, 16 // N, N, DIMS]), [W, 16, DIMS])


@triton.jit
def _upper(y):
    """Of [4, 8, W, ..., 2] the first of the last axis, rows of a product and those 8 below."""
    upper, _lower = tl.split(y)
    return upper


@triton.jit
def scores(q, k):
    """float32 [4, 8, W, T, 2] of operands [W, 16, DIMS] and [W, DIMS, 8 T]."""
    W: tl.constexpr = k.shape[0]
    T: tl.constexpr = k.shape[2] // 8
    return _upper(tl.permute(tl.reshape(tl.dot(q, k), [W, 2, 8, T, 4, 2]), (4, 2, 0, 3, 5, 1)))  # j g w t e half


@triton.jit
def outputs(weights, v, CC: tl.constexpr, EV: tl.constexpr, BYTES: tl.constexpr):
    """float32 [4, 8, W, CC, 2, EV] of weights float32 [4, 8, W, T, 2] and an operand [W, 8 T, DIMS]."""
    W: tl.constexpr = weights.shape[2]
    T: tl.constexpr = weights.shape[3]
    x = tl.broadcast_to(weights.to(tl.float16)[:, :, :, :, :, None], [4, 8, W, T, 2, 2])
    if BYTES:
        x = tl.permute(tl.reshape(x, [4, 8, W, T // 2, 2, 2, 2]), (2, 6, 1, 3, 0, 4, 5))  # w half g t j u e
    else:
        x = tl.permute(x, (2, 5, 1, 3, 0, 4))  # w half g t j e
    x = tl.reshape(x, [W, 16, 8 * T])
    y = tl.reshape(tl.dot(x, v), [W, 2, 8, CC, EV, 4, 2])
    return _upper(tl.permute(y, (5, 2, 0, 3, 6, 4, 1)))  # j g w cc e i half


@triton.jit
def step(
    q, k, v, k_scale, v_scale, at, p, m, total, acc,
    WINDOW: tl.constexpr, SCALE: tl.constexpr, SOFTCAP: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A step of each warp's own online softmax: m, total [1, 8, W] and acc, outputs, as they are afterwards.

    q, k, v: operands; k_scale, v_scale: of keys and values that are int8, of scores' shape, else None, and acc is
    LARGEST times outputs; at: positions, of scores' shape; p: of lines, [4, 8, W]."""
    W: tl.constexpr = at.shape[2]
    T: tl.constexpr = at.shape[3]
    OUTSIDE: tl.constexpr = outer_factor(SCALE, SOFTCAP)
    s = scores(q, k)
    if k_scale is not None:
        s *= k_scale
    if SOFTCAP > 0:
        INSIDE: tl.constexpr = inner_factor(SCALE, SOFTCAP)
        s = capped(s * INSIDE, SOFTCAP, ASM)
    seen = at <= p[:, :, :, None, None]
    if WINDOW > 0:
        seen = seen & (at > p[:, :, :, None, None] - WINDOW)
    s = tl.where(seen, s, UNSEEN)
    top = tl.max(tl.max(tl.reshape(s, [4, 8, W, 2 * T]), 3), 0, keep_dims=True) * OUTSIDE
    top = tl.maximum(m, top)
    share = tl.exp2(m - top)
    weights = tl.exp2(s * OUTSIDE - top[:, :, :, None, None])
    total = total * share + tl.sum(tl.sum(tl.reshape(weights, [4, 8, W, 2 * T]), 3), 0, keep_dims=True)
    if v_scale is not None:
        weights *= v_scale * LARGEST
    acc = acc * share[:, :, :, None, None, None] + outputs(
        weights, v, acc.shape[3], acc.shape[5], v_scale is not None
    )  # fmt: skip
    return top, total, acc


@triton.jit
def _join(m1, l1, m2, l2):
    m = tl.maximum(m1, m2)
    return m, l1 * tl.exp2(m1 - m) + l2 * tl.exp2(m2 - m)


@triton.jit
def settle(m, total, acc, sink, alone, LOWEST: tl.constexpr):
    """All warps' softmax: outputs float32 [8 DIMS], line after line, and the logarithms of their weights' sums,
    [1, 8, W or 1], LOWEST of none.

    sink: of lines, [4, 8, W], or None; part of outputs if `alone`, else of those that are joined, never of logarithms.
    """
    W: tl.constexpr = acc.shape[2]
    SIZE: tl.constexpr = 64 * acc.shape[3] * acc.shape[5]
    top = m
    if W > 1:
        top, total = tl.reduce((m, total), 2, _join, keep_dims=True)
    whole = tl.where(total > 0, total, 1.0)
    if sink is not None:
        whole += tl.where(alone, sink_weight(sink, top), 0.0)
    share = tl.exp2(m - top) * (1.0 / whole)
    y = tl.permute(acc * share[:, :, :, None, None, None], (2, 1, 3, 0, 4, 5))  # w g cc j e i
    if W == 1:
        y = tl.reshape(y, [SIZE])
    else:  # the two that `split` parts lie in one thread: so values change places once
        even, odd = tl.split(tl.permute(tl.reshape(y, [W // 2, 2, SIZE]), (0, 2, 1)))
        y = tl.sum(even + odd, 0)
    return y, tl.where(total > 0, top + tl.log2(tl.where(total > 0, total, 1.0)), LOWEST)
