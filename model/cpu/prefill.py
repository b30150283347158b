"""Many tokens at once on the CPU: weights expanded matrix by matrix, products and attention through torch.

A matrix is expanded from its packed form into one reused buffer (bf16 where the processor multiplies bf16, else
float32), so weights take no more room than the largest matrix; beside it stand one layer's cache in float32 and the
hidden states of the prompt.
"""

import numpy as np
import torch
import torch.nn.functional as F

from kernel_templates import memory
from kernel_templates.attention import cache
from kernel_templates.cpu import expand, machine
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.tiles import Tiles, padded
from model.cpu.decode import Decoder

CHUNK = 512


class Prefill:
    """Runs prompt tokens through a decoder's weights into its KV cache."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        fast = {"amx-bf16", "avx512bf16"} & machine.features()
        self.target, self.dtype = ("bf16", torch.bfloat16) if fast else ("f32", torch.float32)
        self._kernels: dict[tuple, Kernel] = {}
        largest = max(
            packed.cols * padded(packed.rows, packed.lanes)
            for layer in decoder.layers
            for group in layer.packed.values()
            for packed in group
        )
        self._memory = memory.empty((largest,), np.int16 if fast else np.float32)
        self._expand = {id(p): self._graph(p) for layer in decoder.layers for g in layer.packed.values() for p in g}

    def _graph(self, packed: Tiles) -> Graph:
        shape = (packed.format, packed.cols, packed.lanes)
        if shape not in self._kernels:
            self._kernels[shape] = expand.compile(*shape, self.target)
        return Graph(self.decoder.team, [expand.bind(self._kernels[shape], packed, self._memory)])

    def _matrix(self, packed: Tiles) -> torch.Tensor:
        """The transpose, [cols, rows], valid until the next call."""
        self._expand[id(packed)].replay()
        wide = padded(packed.rows, packed.lanes)
        flat = torch.from_numpy(self._memory[: packed.cols * wide]).view(self.dtype)
        return flat.view(packed.cols, wide)[:, : packed.rows]

    def _product(self, x: torch.Tensor, packed: Tiles) -> torch.Tensor:
        """x [tokens, cols] times the matrix -> float32 [tokens, rows]."""
        return (x.to(self.dtype) @ self._matrix(packed)).float()

    def run(self, tokens: list[int], first: int) -> torch.Tensor:
        """Process tokens at positions first, first + 1, ...; the last hidden states, float32 [tokens, hidden]."""
        parts = [self._chunk(tokens[i : i + CHUNK], first + i) for i in range(0, len(tokens), CHUNK)]
        return torch.cat(parts)

    def _chunk(self, tokens: list[int], first: int) -> torch.Tensor:
        d, c = self.decoder, self.decoder.config
        count = len(tokens)
        angles = torch.arange(first, first + count, dtype=torch.float64)[:, None] * torch.from_numpy(d.frequencies)
        cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
        sizes = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
        x = d.embed(tokens)
        for layer in d.layers:
            n = self._norm(x, layer.attn_norm)
            qkv = torch.cat([self._product(n, p) for p in layer.packed["norm_qkv_rope"]], 1)
            q, k, v = (part.reshape(count, -1, c.head_dim) for part in qkv.split(sizes, 1))
            if c.qk_norm:
                q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
            q, k = self._rope(q, cos, sin), self._rope(k, cos, sin)
            cache.write(layer.keys, layer.values, k, v, first)
            x = x + self._product(self._attend(layer, q, first), layer.packed["matvec"][0])
            gate, up, down = layer.packed["ffn"]
            n = self._norm(x, layer.ffn_norm)
            x = x + self._product(F.silu(self._product(n, gate)).mul_(self._product(n, up)), down)
        return x

    def _norm(self, x: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
        size = x.shape[-1]
        return F.rms_norm(x, (size,), torch.from_numpy(weight[:size]), self.decoder.config.norm_eps)

    def _rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = self.decoder.config.rope_dim // 2
        a, b = x[..., :half], x[..., half : 2 * half]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], -1)

    def _attend(self, layer, q: torch.Tensor, first: int) -> torch.Tensor:
        """Causal attention of q [tokens, heads, head_dim] over everything cached up to each token."""
        count, heads, dim = q.shape
        total = first + count
        k, v = cache.read(layer.keys, layer.values, total)
        mask = torch.ones(count, total, dtype=torch.bool).tril(first) if first else None
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k[None], v[None], attn_mask=mask, is_causal=not first, enable_gqa=True
        )
        return out[0].transpose(0, 1).reshape(count, heads * dim)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head over hidden states [tokens, hidden], through the tuned kernel: float32 [tokens, vocab]."""
        d = self.decoder
        out = torch.empty(len(hidden), d.config.vocab)
        for i, row in enumerate(hidden):
            d.x[: d.config.hidden] = row.numpy()
            d.head.replay()
            out[i] = torch.from_numpy(d.logits[: d.config.vocab])
        return out
