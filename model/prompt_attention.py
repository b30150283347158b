"""Attention of a prompt's tokens through torch, in blocks of tokens: on a GPU for layers with a window or a soft cap,
on a processor for all layers.

    out = softmax(s) v,  s = scale q k, or softcap tanh(scale q k / softcap), over the window's positions up to a token

torch's fused attention takes a mask, so a window needs no scores in memory. A cap it does not take, and on a processor
it multiplies slowly: then scores are made, `SCORES` of them at a time. Blocks of half a window read half as much again
as the window; smaller ones would read less and start more kernels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layer_traits import LayerTraits

SCORES = 1 << 25
"""float32 scores that are in memory at once: 134 MB, and as much again for what the softmax makes of them."""

SMALLEST = 64
"""Tokens of a block, where a narrow window would have fewer."""

PLAIN = 128
"""Tokens of a block without a window, where a product is given: half of what a block computes beyond the diagonal is
for nothing."""

Product = Callable[[Tensor, Tensor], Tensor]
"""[m, k] times [k, n], float32."""


def needs_blocks(traits: LayerTraits, positions: int) -> bool:
    """Whether plain causal attention over so many positions is something else."""
    return bool(traits.softcap) or 0 < traits.window < positions


def oldest(position: int, window: int) -> int:
    """The first position that a token at this one sees."""
    return max(position + 1 - window, 0) if window else 0


def attend(q: Tensor, k: Tensor, v: Tensor, first: int, traits: LayerTraits, product: Product | None = None) -> Tensor:
    """[tokens, heads * head_dim] of q [tokens, heads, head_dim], whose tokens are at positions first, first + 1, ... of
    k, v [kv_heads, positions, head_dim]; all of one dtype, float16 or float32. product: how float32 matrices are
    multiplied where that is not torch's business."""
    count, heads, head_dim = q.shape
    grouped = q.transpose(0, 1).reshape(len(k), heads // len(k), count, head_dim)
    scale, window, made, start = traits.scale or head_dim**-0.5, traits.window, [], 0
    while start < count:
        low = oldest(first + start, window)
        end = min(start + _block(heads, first + count - low, traits, product), count)
        mask = _visible(first + start, first + end, low, window, q.device)
        block, seen = grouped[:, :, start:end], slice(low, first + end)
        if product is None and not traits.softcap:
            made.append(_fused(block, k[:, seen], v[:, seen], mask, scale))
        else:
            made.append(_scored(block, k[:, seen], v[:, seen], mask, scale, traits.softcap, product))
        start = end
    return torch.cat(made, 2).permute(2, 0, 1, 3).reshape(count, -1)


def _block(heads: int, positions: int, traits: LayerTraits, product: Product | None = None) -> int:
    """Tokens of a block that may see so many positions."""
    most = max(traits.window // 2, SMALLEST) if traits.window else positions
    if product is not None:
        most = min(most, PLAIN)
    elif not traits.softcap:
        return most
    seen = min(positions, traits.window + most) if traits.window else positions
    return max(min(most, SCORES // (heads * seen)), 1)


def _visible(first: int, end: int, low: int, window: int, device: torch.device) -> Tensor:
    """bool [end - first, end - low]: whether tokens at positions first.. see positions low..."""
    back = torch.arange(first, end, device=device)[:, None] - torch.arange(low, end, device=device)
    return (back >= 0) & (back < window) if window else back >= 0


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """q [kv_heads, group, tokens, head_dim], k, v [kv_heads, positions, head_dim]; as q."""
    shared = (-1, q.shape[1], -1, -1)
    k, v = k[:, None].expand(shared), v[:, None].expand(shared)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _scored(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float, product: Product | None
) -> Tensor:
    """As `_fused`. Scores are float32: float16 has steps of 0.02 where a cap of 50 begins to tell."""
    flat, keys = q.flatten(1, 2), k.transpose(1, 2)
    if product is not None:
        s = torch.stack([product(*pair) for pair in zip(flat * scale, keys, strict=True)])
    elif q.is_cuda:
        s = torch.bmm(flat, keys, out_dtype=torch.float32).mul_(scale)
    else:
        s = (flat.float() @ keys.float()).mul_(scale)
    if softcap:
        s = s.mul_(1 / softcap).tanh_().mul_(softcap)
    p = torch.softmax(s.view(*q.shape[:3], -1).masked_fill_(~mask, -torch.inf), -1).to(v.dtype).flatten(1, 2)
    if product is None:
        return (p @ v).view(q.shape)
    return torch.stack([product(*pair) for pair in zip(p, v, strict=True)]).view(q.shape)
