"""Many tokens at once on the CPU: weights expanded matrix by matrix, products and attention through torch.

A matrix is expanded from its packed form into one reused float32 buffer, so weights take no more room than the largest
matrix; beside it stand one layer's cache in float32 and the hidden states of the prompt. bfloat16, where a processor
has it, would be 1.2 to 1.5 times as fast, but its 8 bits of mantissa are too few: with a K-norm of 96.5 every third
token is another (docs/log.md).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kernel_templates import memory
from kernel_templates.attention import cache
from kernel_templates.cpu import expand
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.tiles import Tiles, padded
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
        self._kernels: dict[tuple, Kernel] = {}
        self._threads = decoder.threads.most
        matrices = [packed for layer in decoder.layers for own in layer.packed.values() for packed in own]
        self._memory = memory.empty((max(p.cols * padded(p.rows, p.lanes) for p in matrices),), np.float32)
        self._expand = {id(packed): self._graph(packed) for packed in matrices}

    @property
    def most(self) -> int:
        return CHUNK

    def run(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        self._threads = self.decoder.threads.by_load()
        torch.set_num_threads(self._threads)
        return super().run(tokens, first, every)

    def over(self, caches: Sequence[Mapping[str, np.ndarray]]) -> "CpuPrefill":
        """One that fills another KV cache, "keys" and "values" of each layer, through the same weights and memory."""
        layers = zip(self.decoder.layers, caches, strict=True)
        other = copy.copy(self)
        Prefill.__init__(other, self.config, [replace(own, buffers={**own.buffers, **its}) for own, its in layers])
        return other

    def _graph(self, packed: Tiles) -> Graph:
        shape = (packed.format, packed.cols, packed.lanes)
        if shape not in self._kernels:
            self._kernels[shape] = expand.compile(*shape)
        return Graph(self.decoder.pool, [expand.bind(self._kernels[shape], packed, self._memory)])

    def _matrix(self, packed: Tiles) -> Tensor:
        """The transpose, [cols, rows] with rows padded to whole tiles, valid until the next call."""
        self._expand[id(packed)].replay(self._threads)
        wide = padded(packed.rows, packed.lanes)
        return torch.from_numpy(self._memory[: packed.cols * wide]).view(packed.cols, wide)

    def _product(self, x: Tensor, packed: Tiles) -> Tensor:
        """x [tokens, cols] times the matrix -> float32 [tokens, rows]."""
        return product(x, self._matrix(packed))[:, : packed.rows]

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
        low = prompt_attention.oldest(chunk.first, traits.window)
        k, v = cache.read(cached["keys"], cached["values"], chunk.first + chunk.count, low)
        return prompt_attention.attend(q, k, v, chunk.first - low, traits, product)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x [m, k] times matrix [k, n], float32, by oneDNN. torch itself asks MKL for float32, which is not made for AMD's
    processors: 105 against 235 GFLOP/s on one core of an EPYC with AVX-512 (docs/log.md).

    oneDNN is thousands of times slower where an operand is a part of a wider one: such a one is copied."""
    if not torch.backends.mkldnn.is_available():
        return x @ matrix
    if not (matrix.is_contiguous() or matrix.T.is_contiguous()):
        matrix = matrix.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), matrix.T, None, "none", [], "")
