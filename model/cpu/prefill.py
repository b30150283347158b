"""Many tokens at once on the CPU: weights expanded matrix by matrix, products and attention through torch.

A matrix is expanded from its packed form into one reused buffer (bf16 where the processor multiplies bf16 and the
file's own numbers are no finer, else float32), so weights take no more room than the largest matrix; beside it stand
one layer's cache in float32 and the hidden states of the prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_templates import formats, memory
from kernel_templates.attention import cache
from kernel_templates.cpu import expand, machine
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.tiles import Tiles, padded
from kernel_templates.formats.layout import Floats
from model import prompt_attention
from model.cpu.decode import Decoder
from model.layer_plan import Rope
from model.layer_traits import LayerTraits
from model.prefill import Chunk, Prefill

CHUNK = 512


class CpuPrefill(Prefill):
    """Reads prompts through a decoder's weights."""

    def __init__(self, decoder: Decoder):
        super().__init__(decoder.config, decoder.layers)
        self.decoder = decoder
        self._fast = bool({"amx-bf16", "avx512bf16"} & machine.features())
        self._kernels: dict[tuple, Kernel] = {}
        self._threads = decoder.threads.most
        matrices = [packed for layer in decoder.layers for own in layer.packed.values() for packed in own]
        sizes = (p.cols * padded(p.rows, p.lanes) * self._dtype(p).itemsize for p in matrices)
        self._memory = memory.empty((max(sizes),), np.uint8)
        self._expand = {id(packed): self._graph(packed) for packed in matrices}

    @property
    def most(self) -> int:
        return CHUNK

    def run(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        self._threads = self.decoder.threads.by_load()
        torch.set_num_threads(self._threads)
        return super().run(tokens, first, every)

    def _graph(self, packed: Tiles) -> Graph:
        shape = (packed.format, packed.cols, packed.lanes)
        if shape not in self._kernels:
            target = "bf16" if self._dtype(packed) is torch.bfloat16 else "f32"
            self._kernels[shape] = expand.compile(*shape, target)
        return Graph(self.decoder.pool, [expand.bind(self._kernels[shape], packed, self._memory)])

    def _dtype(self, packed: Tiles) -> torch.dtype:
        """What a matrix is multiplied in. Rounding an F16 file's weights to bf16 would cost more than all else."""
        layout = formats.get(packed.format).layout
        finer = isinstance(layout, Floats) and layout.dtype is not torch.bfloat16
        return torch.bfloat16 if self._fast and not finer else torch.float32

    def _matrix(self, packed: Tiles) -> Tensor:
        """The transpose, [cols, rows], valid until the next call."""
        self._expand[id(packed)].replay(self._threads)
        wide, dtype = padded(packed.rows, packed.lanes), self._dtype(packed)
        flat = torch.from_numpy(self._memory[: packed.cols * wide * dtype.itemsize]).view(dtype)
        return flat.view(packed.cols, wide)[:, : packed.rows]

    def _product(self, x: Tensor, packed: Tiles) -> Tensor:
        """x [tokens, cols] times the matrix -> float32 [tokens, rows]."""
        matrix = self._matrix(packed)
        return (x.to(matrix.dtype) @ matrix).float()

    def _products(self, x: Tensor, packed: Sequence[Tiles], sizes: Sequence[int]) -> Sequence[Tensor]:
        made = [self._product(x, p) for p in packed]
        return made if len(made) == len(sizes) else torch.cat(made, 1).split(list(sizes), 1)

    def _add_product(self, residual: Tensor, x: Tensor, packed: Sequence[Tiles]) -> Tensor:
        (matrix,) = packed
        return residual + self._product(x, matrix)

    def _embed(self, tokens: list[int]) -> Tensor:
        return self.decoder.embed(tokens)

    def _rotation(self, rope: Rope, first: int, count: int) -> Tensor:
        return self.decoder.rotation(rope, first, count)

    def _append(self, cached: Mapping[str, np.ndarray], chunk: Chunk, k: Tensor, v: Tensor) -> None:
        cache.write(cached["keys"], cached["values"], k, v, chunk.first)

    def _attend(self, cached: Mapping[str, np.ndarray], chunk: Chunk, q: Tensor, traits: LayerTraits) -> Tensor:
        total = chunk.first + chunk.count
        if prompt_attention.needs_blocks(traits, total):
            low = prompt_attention.oldest(chunk.first, traits.window)
            k, v = cache.read(cached["keys"], cached["values"], total, low)
            return prompt_attention.attend(q, k, v, chunk.first - low, traits)
        k, v = cache.read(cached["keys"], cached["values"], total)
        mask = torch.ones(chunk.count, total, dtype=torch.bool).tril(chunk.first) if chunk.first else None
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k[None], v[None], attn_mask=mask, is_causal=not chunk.first,
            scale=traits.scale or None, enable_gqa=True,
        )  # fmt: skip
        return out[0].transpose(0, 1).reshape(chunk.count, -1)
