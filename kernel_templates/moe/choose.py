"""Chooses each token's experts from the router's logits, on the device: the largest ones, and the weights of their sum.

A program of one warp has a token; a round for each chosen expert takes the largest logit that is left, of equal ones
the lower expert. Logits are compared as integers in their order, so that a number is always chosen that an expert has,
also where logits are not finite; the weights are then NaN, and so is the token.
"""

from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.moe.problem import Moe

TAKEN = tl.constexpr(-(1 << 31))
"""Below every logit."""


@triton.jit
def choose(
    logits, positions, ids, weights,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, USED: tl.constexpr, PLACES: tl.constexpr, ROUTING: tl.constexpr,
    NORMALIZED: tl.constexpr, SCALE: tl.constexpr, SHARED: tl.constexpr, GATED: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """ids int32 [tokens, USED] and weights float32 [tokens, USED + SHARED], from the largest on, of logits [tokens,
    EXPERTS + GATED]; SHARED: behind them the weight of the shared expert, 1 or if GATED the sigmoid of the last
    logit. positions: int32 [tokens], or None; a token at -1 is unused: its experts are none, EXPERTS, their weights
    0."""
    if PDL:
        gdc_launch_dependents()
    token = tl.program_id(0)
    e = tl.arange(0, LANES)
    place = tl.arange(0, PLACES)
    logits += token * (EXPERTS + GATED)
    if PDL:
        gdc_wait()
    v = tl.load(logits + e, mask=e < EXPERTS, other=float("-inf")) + 0.0  # no zero is less than another
    bits = v.to(tl.int32, bitcast=True)
    left = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    left = tl.where(v != v, 0x7FFFFFFF, left)
    left = tl.where(e < EXPERTS, left, TAKEN)
    chosen = place * 0
    kept = place * 0.0
    for k in tl.static_range(USED):
        top = tl.max(left, 0)
        who = tl.min(tl.where(left == top, e, LANES), 0)
        left = tl.where(e == who, TAKEN, left)
        chosen = tl.where(place == k, who, chosen)
        kept = tl.where(place == k, tl.sum(tl.where(e == who, v, 0.0), 0), kept)
    if positions is not None:
        there = tl.load(positions + token) >= 0
        chosen = tl.where(there, chosen, EXPERTS)
    tl.store(ids + token * USED + place, chosen, mask=place < USED)
    if ROUTING == "sigmoid":
        w = 1.0 / (1.0 + tl.exp(-kept))
    else:
        largest = tl.sum(tl.where(place == 0, kept, 0.0), 0)
        w = tl.exp(kept - largest)
        if ROUTING == "softmax":
            w = w / tl.sum(tl.exp(v - largest), 0)
    w = tl.where(place < USED, w, 0.0)
    if NORMALIZED or ROUTING == "softmax_of_chosen":
        w = w / tl.sum(w, 0)
    w = w * SCALE
    if SHARED:
        share = 1.0
        if GATED:
            share = 1.0 / (1.0 + tl.exp(-tl.load(logits + EXPERTS)))
        w = tl.where(place == USED, share, w)
    if positions is not None:
        w = tl.where(there, w, 0.0)
    tl.store(weights + token * (USED + SHARED) + place, w, mask=place < USED + SHARED)


def launch(
    problem: Moe, logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, tokens: int = 1,
    positions: torch.Tensor | None = None,
) -> Launch:  # fmt: skip
    """See `choose`; logits as the router's product leaves them, of as many tokens."""
    shared = bool(problem.shared_ffn)
    constants: dict[str, Any] = {
        "EXPERTS": problem.experts, "LANES": triton.next_power_of_2(problem.experts), "USED": problem.used,
        "PLACES": triton.next_power_of_2(problem.used + shared), "ROUTING": problem.routing,
        "NORMALIZED": bool(problem.normalized), "SCALE": problem.scale, "SHARED": shared,
        "GATED": bool(problem.shared_gated),
    }  # fmt: skip
    return Launch("choose", choose, (tokens,), (logits, positions, ids, weights), constants, warps=1)
