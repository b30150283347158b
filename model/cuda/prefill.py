"""Many tokens at once on the GPU: weights expanded matrix by matrix, products and attention through torch.

A matrix is expanded into one reused buffer (F32 is used as it is), so weights take no more room than the largest
product's. Products take activations in the weights' type, each row scaled to a maximum of 1 because
float16 ends at 65504, and sum in float32; the residual stream, norms and RoPE are float32 throughout. Nothing waits for
the device. On CPU tensors the same arithmetic runs in torch alone.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_templates import formats
from kernel_templates.cuda import expand
from kernel_templates.cuda.launch import Target
from kernel_templates.cuda.weights import Planes
from model import prompt_attention
from model.cuda.load import Loaded
from model.cuda.out_of_memory import FOR_WEIGHTS, explain_out_of_memory
from model.layer_plan import Rope
from model.layer_traits import LayerTraits
from model.prefill import Chunk, Prefill

CHUNK = 2048
"""Tokens at a time: enough that products are bound by arithmetic, and 1 GB of activations for a model of 8B."""


class CudaPrefill(Prefill):
    """Reads prompts through a loaded model's weights. target: for expanding kernels; None: in torch."""

    def __init__(self, model: Loaded, target: Target | None):
        super().__init__(model.config, model.layers)
        self.model, self.target = model, target
        packed = [own for layer in model.layers for own in layer.packed.values()]
        # Matrices of one width are multiplied as one.
        groups = [list(group) for own in packed for _, group in groupby(own, lambda p: p.cols)]
        largest = max(sum(p.rows * p.cols for p in group) for group in groups)
        with explain_out_of_memory(f"the {2 * largest / 1e9:.1f} GB that prompts need", FOR_WEIGHTS):
            self._buffer = torch.empty(largest, dtype=torch.float16, device=model.output_norm.device)

    @property
    def most(self) -> int:
        return CHUNK

    def _embed(self, tokens: list[int]) -> Tensor:
        table = self.model.embedding
        rows = table.raw[torch.tensor(tokens).to(table.raw.device)]
        with torch.device(rows.device):  # formats make their tensors on the default device
            values = formats.get(table.format).dequantize(rows)
        return values if table.scale == 1.0 else values.mul_(table.scale)

    def _rotation(self, rope: Rope, first: int, count: int) -> Tensor:
        return self.model.ropes[rope][first : first + count]

    def _products(self, x: Tensor, packed: Sequence[Planes], sizes: Sequence[int]) -> Sequence[Tensor]:
        y, scale = self._product(x, packed)
        return y.mul_(scale).split(list(sizes), 1)

    def _add_product(self, residual: Tensor, x: Tensor, packed: Sequence[Planes]) -> Tensor:
        y, scale = self._product(x, packed)
        return torch.addcmul(residual, y, scale)

    def _product(self, x: Tensor, parts: Sequence[Planes]) -> tuple[Tensor, Tensor]:
        """x [tokens, cols] times the matrices below each other: y float32 [tokens, rows], scale float32 [tokens, 1];
        the product is y * scale."""
        # The norm of an infinite order is the largest magnitude. A row of zeros stays one.
        scale = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True, dtype=torch.float32).clamp_min_(1e-30)
        results: list[Tensor] = []
        for _, same_dtype in groupby(parts, expand.dtype):
            group = tuple(same_dtype)
            h = torch.empty_like(x, dtype=expand.dtype(group[0]))
            torch.div(x, scale, out=h)
            results.append(_times(h, expand.matrix(group, self._buffer, self.target)))
        return (results[0] if len(results) == 1 else torch.cat(results, 1)), scale

    def _append(self, cached: Mapping[str, Tensor], chunk: Chunk, k: Tensor, v: Tensor) -> None:
        positions = slice(chunk.first, chunk.first + chunk.count)
        cached["keys"][:, positions] = k.transpose(0, 1)
        cached["values"][:, positions] = v.transpose(0, 1)

    def _attend(self, cached: Mapping[str, Tensor], chunk: Chunk, q: Tensor, traits: LayerTraits) -> Tensor:
        """As float16."""
        total = chunk.first + chunk.count
        if prompt_attention.needs_blocks(traits, total):
            k, v = cached["keys"][:, :total], cached["values"][:, :total]
            return prompt_attention.attend(q.to(torch.float16), k, v, chunk.first, traits)
        q, k, v = q.to(torch.float16), cached["keys"][None, :, :total], cached["values"][None, :, :total]
        mask = None
        if chunk.first:
            from torch.nn.attention.bias import causal_lower_right  # imports torch's compiler: 1.7 s of a core

            # Queries are the last of the positions: a mask with its corner there, which flash attention knows without
            # a tensor.
            mask = causal_lower_right(chunk.count, total)
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k, v, attn_mask=mask, is_causal=not chunk.first, scale=traits.scale or None,
            enable_gqa=True,
        )  # fmt: skip
        return out[0].transpose(0, 1).reshape(chunk.count, -1)


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """x matrix^T with sums and result in float32."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, matrix.T, out_dtype=torch.float32)
    return x.float() @ matrix.float().T
