"""Chooses each token's experts from the router's logits, on the device: the largest ones, and the weights of their sum.

A round for each chosen expert takes the largest logit that is left, of equal ones the lower expert. Logits are compared
as integers in their order, so that a number is always chosen that an expert has, also where logits are not finite; the
weights are then NaN, and so is the token. A warp has all logits, each lane those of neighbouring experts: a round is
two reductions over a warp, an instruction each. In a program of several warps each does the same for itself, so that
none waits for another.

`choose` is a kernel of its own, of a warp for each token. For one token the kernels that read experts can choose as
well (`expert_products`), which saves a launch and the wait for it.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, var-annotated"

from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.instructions import loop_bound
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.moe.problem import Moe

TAKEN = tl.constexpr(-(1 << 31))
"""Below every logit."""
WARP = 32


@triton.jit
def choose(
    logits, positions, scales, ids, weights,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, USED: tl.constexpr, PLACES: tl.constexpr, ROUTING: tl.constexpr,
    NORMALIZED: tl.constexpr, SCALE: tl.constexpr, SHARED: tl.constexpr, GATED: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """ids int32 [tokens, USED] and weights float32 [tokens, USED + SHARED], as of `routed`, of logits [tokens, EXPERTS
    + GATED]. positions: int32 [tokens], or None; a token at -1 is unused: its experts are none, EXPERTS, their weights
    0."""
    if PDL:
        gdc_launch_dependents()
    token = tl.program_id(0)
    if PDL:
        gdc_wait()
    chosen, shares = routed(
        logits + token * (EXPERTS + GATED), scales, EXPERTS, LANES, USED, ROUTING, NORMALIZED, SCALE, SHARED, GATED
    )  # fmt: skip
    place = tl.arange(0, PLACES)
    chosen, shares = at_places(chosen, place, 0, PLACES), at_places(shares, place, 0, PLACES)
    if positions is not None:
        there = tl.load(positions + token) >= 0
        chosen, shares = tl.where(there, chosen, EXPERTS), tl.where(there, shares, 0.0)
    tl.store(ids + token * USED + place, chosen, mask=place < USED)
    tl.store(weights + token * (USED + SHARED) + place, shares, mask=place < USED + SHARED)


@triton.jit
def routed(
    logits, scales, EXPERTS: tl.constexpr, LANES: tl.constexpr, USED: tl.constexpr, ROUTING: tl.constexpr,
    NORMALIZED: tl.constexpr, SCALE: tl.constexpr, SHARED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """A token's experts from the largest logit on, and their weights, a number each; logits float32 [EXPERTS + GATED].
    scales: float32 [EXPERTS], what weights are multiplied with, or None. SHARED: behind them the weight of the shared
    expert, 1 or if GATED the sigmoid of the last logit."""
    left = load_ordered(logits, EXPERTS, LANES, ".cg")
    every = left
    ids, weights, total = (), (), 0.0
    for k in tl.static_range(USED):
        top, who = largest(left)
        left = without(left, who)
        v = logit_of(top)
        if ROUTING == "sigmoid":
            w = 1.0 / (1.0 + tl.exp(-v))
        else:
            if k == 0:
                first = v
            w = tl.exp(v - first)
        total += w
        ids, weights = ids + (who,), weights + (w,)
    factor = SCALE
    if NORMALIZED or ROUTING == "softmax_of_chosen":  # a sum over all experts would cancel
        factor = SCALE / total
    elif ROUTING == "softmax":
        powers = tl.arange(0, 32) * 0.0
        for i in tl.static_range(len(every)):
            e = tl.arange(0, 32) + i * 32
            powers += tl.where(e < EXPERTS, tl.exp(logit_of(every[i]) - first), 0.0)
        factor = SCALE / tl.sum(powers, 0)
    shares = ()
    for k in tl.static_range(USED):
        share = weights[k] * factor
        if scales is not None:
            share *= tl.load(scales + ids[k])
        shares = shares + (share,)
    if SHARED:
        share = 1.0
        if GATED:
            share = 1.0 / (1.0 + tl.exp(-tl.load(logits + EXPERTS, cache_modifier=".cg")))
        shares = shares + (share,)
    return ids, shares


@triton.jit
def nth_expert(logits, n, EXPERTS: tl.constexpr, LANES: tl.constexpr, ASM: tl.constexpr):
    """The expert of the n-th largest logit, counted from 0; for kernels that have waited for who wrote them."""
    left = load_ordered(logits, EXPERTS, LANES, "")
    for _ in tl.range(loop_bound(0 * n, ASM), loop_bound(n, ASM)):
        left = without(left, largest(left)[1])
    return largest(left)[1]


@triton.jit
def load_ordered(logits, EXPERTS: tl.constexpr, LANES: tl.constexpr, CACHE: tl.constexpr):
    """Logits as int32 in their order: -0 as 0, NaN above all others, what is no expert's below all. A tuple of [32],
    which lie across the lanes of every warp: a larger tensor would be spread over the warps. CACHE: ".cg", past the
    first-level cache, for who has not waited; behind a wait "", or every warp would ask the second-level cache for the
    same few lines, which takes 0.2 us of a layer (docs/log.md)."""
    every = ()
    for i in tl.static_range(LANES // 32):
        e = tl.arange(0, 32) + i * 32
        v = tl.load(logits + e, mask=e < EXPERTS, other=float("-inf"), cache_modifier=CACHE) + 0.0
        bits = v.to(tl.int32, bitcast=True)
        ordered = tl.where(v != v, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
        every = every + (tl.where(e < EXPERTS, ordered, TAKEN),)
    return every


@triton.jit
def logit_of(ordered):
    """The float32 that `load_ordered` made an integer of."""
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def largest(left):
    """The largest of `left`, and the lowest of its experts."""
    most = left[0]
    for i in tl.static_range(1, len(left)):
        most = tl.maximum(most, left[i])
    top = tl.max(most, 0)
    number = tl.arange(0, 32)
    who = tl.where(left[0] == top, number, 1 << 30)
    for i in tl.static_range(1, len(left)):
        who = tl.minimum(who, tl.where(left[i] == top, number + i * 32, 1 << 30))
    return top, tl.min(who, 0)


@triton.jit
def without(left, who):
    """The same with the expert `who` taken."""
    kept = ()
    for i in tl.static_range(len(left)):
        kept = kept + (tl.where(tl.arange(0, 32) + i * 32 == who, TAKEN, left[i]),)
    return kept


@triton.jit
def at_places(numbers, place, FIRST: tl.constexpr, LAST: tl.constexpr):
    """Of a tuple the number at each place, which lies from FIRST to LAST; where the tuple has none, one of them."""
    found = place * 0 + numbers[FIRST]
    for k in tl.static_range(FIRST + 1, LAST + 1):
        if k < len(numbers):
            found = tl.where(place == k, numbers[k], found)
    return found


def constants(problem: Moe) -> dict[str, Any]:
    """The constexprs of `choose`."""
    shared = bool(problem.shared_ffn)
    return {
        "EXPERTS": problem.experts, "LANES": max(WARP, triton.next_power_of_2(problem.experts)), "USED": problem.used,
        "ROUTING": problem.routing, "NORMALIZED": bool(problem.normalized), "SCALE": problem.scale,
        "PLACES": triton.next_power_of_2(problem.used + shared), "SHARED": shared, "GATED": bool(problem.shared_gated),
    }  # fmt: skip


def launch(
    problem: Moe, logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, tokens: int = 1,
    positions: torch.Tensor | None = None, scales: torch.Tensor | None = None,
) -> Launch:  # fmt: skip
    """See `choose`; logits as the router's product leaves them, of as many tokens."""
    return Launch("choose", choose, (tokens,), (logits, positions, scales, ids, weights), constants(problem), warps=1)
