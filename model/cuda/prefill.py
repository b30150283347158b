"""Many tokens at once on the GPU: weights expanded matrix by matrix, products and attention through torch.

A matrix is expanded into one reused buffer (F32 is used as it is), so weights take no more room than the largest
product's. Products take activations in the weights' type, each row scaled to a maximum of 1 because
float16 ends at 65504, and sum in float32; the residual stream, norms and RoPE are float32 throughout. Nothing waits for
the device. On CPU tensors the same arithmetic runs in torch alone.
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from kernel_templates import formats
from kernel_templates.cuda import expand
from kernel_templates.cuda.launch import Target
from kernel_templates.cuda.weights import Planes
from model.cuda.load import LayerState, Loaded
from model.cuda.out_of_memory import FOR_WEIGHTS, room_for

CHUNK = 2048
"""Tokens at a time: enough that products are bound by arithmetic, and 1 GB of activations for a model of 8B."""


class Prefill:
    """Runs prompt tokens through a loaded model into its KV cache. target: for expanding kernels; None: in torch."""

    def __init__(self, model: Loaded, target: Target | None):
        self.model, self.target = model, target
        groups = [g for layer in model.layers for g in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        largest = max(sum(p.rows for p in g) * g[0].cols for g in groups)
        with room_for(f"the {2 * largest / 1e9:.1f} GB that prompts need", FOR_WEIGHTS):
            self._buffer = torch.empty(largest, dtype=torch.float16, device=model.rope.device)

    def run(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        """Process tokens at positions first, first + 1, ...; hidden states float32 [1, hidden] of the last token, or
        [tokens, hidden] of every one."""
        kept: list[Tensor] = []
        for i in range(0, len(tokens), CHUNK):
            hidden = self._chunk(tokens[i : i + CHUNK], first + i)
            kept = [*kept, hidden] if every else [hidden[-1:]]
        return torch.cat(kept)

    def _chunk(self, tokens: list[int], first: int) -> Tensor:
        m, c, count = self.model, self.model.config, len(tokens)
        cos, sin = m.rope[first : first + count, None].chunk(2, -1)
        sizes = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
        x = self.embed(tokens)
        for layer in m.layers:
            y, scale = self._product(self._norm(x, layer.attn_norm), layer.qkv)
            q, k, v = (part.view(count, -1, c.head_dim) for part in y.mul_(scale).split(sizes, 1))
            if c.qk_norm:
                q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
            q = _rope(q, cos, sin).to(torch.float16)
            layer.keys[:, first : first + count] = _rope(k, cos, sin).transpose(0, 1)
            layer.values[:, first : first + count] = v.transpose(0, 1)
            y, scale = self._product(_attend(layer, q, first), layer.out)
            x = torch.addcmul(x, y, scale)
            y, scale = self._product(self._norm(x, layer.ffn_norm), layer.gate_up)
            gate, up = y.mul_(scale).chunk(2, 1)
            y, scale = self._product(F.silu(gate).mul_(up), layer.down)
            x = torch.addcmul(x, y, scale)
        return x

    def embed(self, tokens: list[int]) -> Tensor:
        """float32 [len(tokens), hidden]: rows of the embedding."""
        table = self.model.embedding
        rows = table.raw[torch.tensor(tokens).to(table.raw.device)]
        with torch.device(rows.device):  # formats make their tensors on the default device
            return formats.get(table.format).dequantize(rows)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.model.config.norm_eps)

    def _product(self, x: Tensor, parts: tuple[Planes, ...]) -> tuple[Tensor, Tensor]:
        """x [tokens, cols] times the matrices below each other: y float32 [tokens, rows], scale float32 [tokens, 1];
        the product is y * scale."""
        # The norm of an infinite order is the largest magnitude. A row of zeros stays one.
        scale = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True, dtype=torch.float32).clamp_min_(1e-30)
        results: list[Tensor] = []
        for group in _same_dtype(parts):
            h = torch.empty_like(x, dtype=expand.dtype(group[0]))
            torch.div(x, scale, out=h)
            results.append(_times(h, expand.matrix(group, self._buffer, self.target)))
        return (results[0] if len(results) == 1 else torch.cat(results, 1)), scale


def _same_dtype(parts: tuple[Planes, ...]) -> list[tuple[Planes, ...]]:
    """Runs of matrices that one product takes."""
    return [tuple(group) for _, group in groupby(parts, expand.dtype)]


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """x matrix^T with sums and result in float32."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, matrix.T, out_dtype=torch.float32)
    return x.float() @ matrix.float().T


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (i, i + n) of x [tokens, heads, head_dim]; cos, sin [tokens, 1, n]. What lies past 2 n stays."""
    n = cos.shape[-1]
    a, b = x[..., :n], x[..., n : 2 * n]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]], -1)


def _attend(layer: LayerState, q: Tensor, first: int) -> Tensor:
    """Causal attention of q float16 [tokens, heads, head_dim] over all that is cached up to each token, as float16
    [tokens, heads * head_dim]."""
    count, total = len(q), first + len(q)
    k, v = layer.keys[None, :, :total], layer.values[None, :, :total]
    # Queries are the last of the positions: a mask with its corner there, which flash attention knows without a tensor.
    mask = causal_lower_right(count, total) if first else None
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k, v, attn_mask=mask, is_causal=not first, enable_gqa=True
    )
    return out[0].transpose(0, 1).reshape(count, -1)
