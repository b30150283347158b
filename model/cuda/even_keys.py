"""Norm weights that leave no channel of a key larger than another, for a cache that has one scale for a whole head.

A norm's weights make some channels of a key a hundred times as large as others (96 beside 1 in Qwen3), which a scale
for all of them would round away. A score is the sum of products q_d k_d, so a channel of all keys may be divided by
what the same channel of all queries is multiplied with: queries are not cached. Where heads are normed, both are part
of the norms' weights, as long as the two channels that RoPE turns into each other have the same factor.
"""

import torch
from torch import Tensor


def factors(k_norm: Tensor, head_dim: int, rope_dim: int) -> Tensor:
    """float32 [head_dim]: the RMS that each channel of a key has behind its norm and RoPE, 1 where it is nothing.
    k_norm: float32 [>= head_dim]."""
    squares = k_norm[:head_dim].float().square()
    half = rope_dim // 2
    turned = (squares[:half] + squares[half:rope_dim]) / 2
    rms = torch.cat([turned, turned, squares[rope_dim:]]).sqrt()
    return torch.where(rms > 0, rms, 1.0)


def evened(own: dict[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
    """A layer's "q_norm" and, where it has one, "k_norm" with `factor` taken out of keys and put into queries."""
    names = {"q_norm": factor, "k_norm": 1 / factor}
    size = len(factor)
    return {
        name: torch.cat([own[name][:size] * by, own[name][size:]]) for name, by in names.items() if name in own
    }  # fmt: skip
