"""Attention of a prompt's tokens in layers with a window or a soft cap, through torch, in blocks of tokens.

    out = softmax(s) v,  s = scale q k, or softcap tanh(scale q k / softcap), over the window's positions up to a token

torch's fused attention takes a mask, so a window needs no scores in memory. A cap it does not take: then scores are
made, `SCORES` of them at a time. Blocks of half a window read half as much again as the window; smaller ones would
read less and start more kernels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layer_traits import LayerTraits

SCORES = 1 << 25
"""float32 scores that are in memory at once: 134 MB, and as much again for what the softmax makes of them."""

SMALLEST = 64
"""Tokens of a block, where a narrow window would have fewer."""


def needs_blocks(traits: LayerTraits, positions: int) -> bool:
    """Whether plain causal attention over so many positions is something else."""
    return bool(traits.softcap) or 0 < traits.window < positions


def oldest(position: int, window: int) -> int:
    """The first position that a token at this one sees."""
    return max(position + 1 - window, 0) if window else 0


def attend(q: Tensor, k: Tensor, v: Tensor, first: int, traits: LayerTraits) -> Tensor:
    """[tokens, heads * head_dim] of q [tokens, heads, head_dim], whose tokens are at positions first, first + 1, ... of
    k, v [kv_heads, positions, head_dim]; all of one dtype, float16 or float32."""
    count, heads, head_dim = q.shape
    grouped = q.transpose(0, 1).reshape(len(k), heads // len(k), count, head_dim)
    scale, window, made, start = traits.scale or head_dim**-0.5, traits.window, [], 0
    while start < count:
        low = oldest(first + start, window)
        end = min(start + _block(heads, first + count - low, traits), count)
        mask = _visible(first + start, first + end, low, window, q.device)
        block, seen = grouped[:, :, start:end], slice(low, first + end)
        function = _capped if traits.softcap else _fused
        made.append(function(block, k[:, seen], v[:, seen], mask, scale, traits.softcap))
        start = end
    return torch.cat(made, 2).permute(2, 0, 1, 3).reshape(count, -1)


def _block(heads: int, positions: int, traits: LayerTraits) -> int:
    """Tokens of a block that may see so many positions."""
    most = max(traits.window // 2, SMALLEST) if traits.window else positions
    if not traits.softcap:
        return most
    seen = min(positions, traits.window + most) if traits.window else positions
    return max(min(most, SCORES // (heads * seen)), 1)


def _visible(first: int, end: int, low: int, window: int, device: torch.device) -> Tensor:
    """bool [end - first, end - low]: whether tokens at positions first.. see positions low..."""
    back = torch.arange(first, end, device=device)[:, None] - torch.arange(low, end, device=device)
    return (back >= 0) & (back < window) if window else back >= 0


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """q [kv_heads, group, tokens, head_dim], k, v [kv_heads, positions, head_dim]; as q."""
    shared = (-1, q.shape[1], -1, -1)
    k, v = k[:, None].expand(shared), v[:, None].expand(shared)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """As `_fused`. Scores are float32: float16 has steps of 0.02 where a cap of 50 begins to tell."""
    flat, keys = q.flatten(1, 2), k.transpose(1, 2)
    s = torch.bmm(flat, keys, out_dtype=torch.float32) if q.is_cuda else flat.float() @ keys.float()
    s = s.mul_(scale / softcap).tanh_().mul_(softcap).view(*q.shape[:3], -1).masked_fill_(~mask, -torch.inf)
    p = torch.softmax(s, -1).to(v.dtype).flatten(1, 2)
    return (p @ v).view(q.shape)
