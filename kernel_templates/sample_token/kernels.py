"""Choosing among candidates: the last argmax, what follows from it, and the embedding lookup on its own."""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.embedding import embed_row
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def rank(value, token):
    """int64 that orders (float32 value, int32 token >= 0): the larger value first, the smaller token of equals; NaN is
    above everything, so that one maximum finds it."""
    value = tl.where(value == 0, 0.0, value)  # -0 equals 0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(value != value, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def ranked_value(ranked):
    """The float32 value in a rank."""
    key = (ranked >> 32).to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def ranked_token(ranked):
    """The int32 token in a rank."""
    return 0x7FFFFFFF - (ranked & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def load_ranks(best_value, best_id, at, count):
    """Ranks of the partial results at `at`, of which there are `count`."""
    value = tl.load(best_value + at, mask=at < count, other=float("-inf"))
    return rank(value, tl.load(best_id + at, mask=at < count, other=0x7FFFFFFF))


@triton.jit
def is_finite(x):
    """Neither infinite nor NaN, by the bits of a float32: comparisons are the compiler's to fold."""
    return (x.to(tl.int32, bitcast=True) & 0x7F800000) != 0x7F800000


@triton.jit
def pick(
    best_value, best_id, raw, norm, token, history, capacity, position, status, values, high, low, scale, squares,
    PARTIALS: tl.constexpr, CHUNK: tl.constexpr, LAYOUT: tl.constexpr, HIDDEN: tl.constexpr, VOCAB: tl.constexpr,
    TILE: tl.constexpr, SCALE: tl.constexpr, ACT: tl.constexpr, NORMED: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """token = the best of the partial argmaxes best_value, best_id [PARTIALS]; its embedding goes to the vector.

    history[(position + 1) % capacity] = token, position += 1. A NaN anywhere, or no finite best, sets status[0] = 1 and
    token 0. One program.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    # A whole number of 16 loads 16 bytes at a time; a mask that ends elsewhere would make every load a narrow one.
    p = tl.arange(0, CHUNK)
    WHOLE: tl.constexpr = PARTIALS // 16 * 16
    best = tl.full([CHUNK], -0x7FFFFFFFFFFFFFFF, tl.int64)
    for first in tl.static_range(0, WHOLE, CHUNK):
        best = tl.maximum(best, load_ranks(best_value, best_id, first + p, WHOLE))
    if WHOLE < PARTIALS:
        best = tl.maximum(best, load_ranks(best_value, best_id, WHOLE + p, PARTIALS))
    top = tl.max(best, 0)
    value = ranked_value(top)
    finite = is_finite(value)
    chosen = tl.where(finite, ranked_token(top), 0)
    embed_row(
        raw, chosen, norm, values, high, low, scale, squares, LAYOUT, HIDDEN, VOCAB, TILE, SCALE, ACT, NORMED, ASM
    )  # fmt: skip
    at = tl.load(position) + 1
    tl.store(token, chosen)
    tl.store(history + at % capacity, chosen)
    tl.store(position, at)
    if not finite:
        tl.store(status, 1)


@triton.jit
def embed(
    raw, norm, token, values, high, low, scale, squares,
    LAYOUT: tl.constexpr, HIDDEN: tl.constexpr, VOCAB: tl.constexpr, TILE: tl.constexpr, SCALE: tl.constexpr,
    ACT: tl.constexpr, NORMED: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The embedding of token[0] goes to the vector. One program."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    chosen = tl.load(token)
    embed_row(
        raw, chosen, norm, values, high, low, scale, squares, LAYOUT, HIDDEN, VOCAB, TILE, SCALE, ACT, NORMED, ASM
    )  # fmt: skip
