"""Attention of a prompt's tokens on a processor, through torch, in blocks of tokens.

    out = softmax(s) v,  s = scale q k, or softcap tanh(scale q k / softcap), over the window's positions up to a token

Scores are made, `SCORES` of them at a time. Blocks of half a window read half as much again as the window; smaller ones
would read less and start more products.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.layer_traits import LayerTraits

SCORES = 1 << 25
"""Scores that are in memory at once: 134 MB, and as much again for what the softmax makes of them."""

SMALLEST = 64
"""Tokens of a block, where a narrow window would have fewer."""

PLAIN = 128
"""Tokens of a block at most: half of what a block computes beyond the diagonal is for nothing."""

Product = Callable[[Tensor, Tensor], Tensor]
"""[m, k] times [k, n], float32."""


def oldest(position: int, window: int) -> int:
    """The first position that a token at this one sees."""
    return max(position + 1 - window, 0) if window else 0


def attend(q: Tensor, k: Tensor, v: Tensor, first: int, traits: LayerTraits, product: Product) -> Tensor:
    """[tokens, heads * head_dim] of q [tokens, heads, head_dim], whose tokens are at positions first, first + 1, ... of
    k, v [kv_heads, positions, head_dim]; all float32. product: how matrices are multiplied."""
    count, heads, head_dim = q.shape
    grouped = q.transpose(0, 1).reshape(len(k), heads // len(k), count, head_dim)
    scale, window, made, start = traits.scale or head_dim**-0.5, traits.window, [], 0
    while start < count:
        low = oldest(first + start, window)
        end = min(start + _block(heads, first + count - low, traits), count)
        mask = _visible(first + start, first + end, low, window)
        seen = slice(low, first + end)
        made.append(_scored(grouped[:, :, start:end], k[:, seen], v[:, seen], mask, scale, traits.softcap, product))
        start = end
    return torch.cat(made, 2).permute(2, 0, 1, 3).reshape(count, -1)


def _block(heads: int, positions: int, traits: LayerTraits) -> int:
    """Tokens of a block that may see so many positions."""
    most = min(max(traits.window // 2, SMALLEST) if traits.window else positions, PLAIN)
    seen = min(positions, traits.window + most) if traits.window else positions
    return max(min(most, SCORES // (heads * seen)), 1)


def _visible(first: int, end: int, low: int, window: int) -> Tensor:
    """bool [end - first, end - low]: whether tokens at positions first.. see positions low..."""
    back = torch.arange(first, end)[:, None] - torch.arange(low, end)
    return (back >= 0) & (back < window) if window else back >= 0


def _scored(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float, product: Product
) -> Tensor:  # fmt: skip
    """q [kv_heads, group, tokens, head_dim], k, v [kv_heads, positions, head_dim]; as q."""
    flat, keys = q.flatten(1, 2) * scale, k.transpose(1, 2)
    s = torch.stack([product(*pair) for pair in zip(flat, keys, strict=True)])
    if softcap:
        s = s.mul_(1 / softcap).tanh_().mul_(softcap)
    p = torch.softmax(s.view(*q.shape[:3], -1).masked_fill_(~mask, -torch.inf), -1).flatten(1, 2)
    return torch.stack([product(*pair) for pair in zip(p, v, strict=True)]).view(q.shape)
