"""Runs the operations of one layer's decode step alone, on inputs from outside, on either backend.

Inputs and outputs are float32 by the layer's names of buffers: "x" [hidden], "qkv" (queries alone, or all three as
projected), "attended" [heads * head_dim]. Heads are in the kernels' order, halves turned.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kernel_templates.attention import cache
from kernel_templates.cpu.graph import Graph
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.problems import ACTIVATION
from model.runner import Runner

PARTS = ("qkv", "attention", "out", "ffn")
"""A layer's operations in order; whatever kind its feed-forward half is, it is "ffn" here."""


def passed(config: ModelConfig, layer: int) -> dict[str, int]:
    """The buffers that parts pass on, and how much of them a layer has: they are as large as the largest one needs."""
    sizes = config.layer(layer)
    return {"x": config.hidden, "qkv": sizes.qkv_rows, "attended": sizes.attended}


class KernelsAlone(Protocol):
    device: torch.device

    def here(self) -> AbstractContextManager:
        """Inside, the device is the current one."""

    def raw(self, layer: int, position: int) -> bool:
        """Whether "qkv" holds projections, which attention norms, turns and appends to the cache."""

    def run(self, layer: int, parts: Sequence[str], position: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the parts leave in the buffers that are passed on."""

    def write_cache(self, layer: int, k: Tensor, v: Tensor, first: int = 0) -> None:
        """k, v [positions, kv_heads, head_dim] at positions first, first + 1, ..., rounded as the cache rounds."""

    def read_cache(self, layer: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        """float32 [positions, kv_heads, head_dim] each."""


def kernels_of(runner: Runner) -> KernelsAlone:
    return CpuKernels(runner.decoder) if isinstance(runner.decoder, Decoder) else CudaKernels(runner.decoder)


class CpuKernels:
    """The compiled steps of model/cpu/decode.py."""

    device = torch.device("cpu")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        _embedding, *steps, _head = decoder.graph.steps
        self._steps = [steps[i : i + len(PARTS)] for i in range(0, len(steps), len(PARTS))]
        self._threads = decoder.threads.most

    def here(self) -> AbstractContextManager:
        self._threads = self._decoder.threads.by_load()  # results do not depend on it
        return nullcontext()

    def raw(self, layer: int, position: int) -> bool:
        return False

    def run(self, layer: int, parts: Sequence[str], position: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        decoder = self._decoder
        decoder.prepare(0, position)
        for name, value in inputs.items():
            decoder.buffers[name][: value.numel()] = value.flatten().numpy()
        chosen = [step for name, step in zip(PARTS, self._steps[layer], strict=True) if name in parts]
        Graph(decoder.pool, chosen).replay(self._threads)
        left = passed(decoder.config, layer).items()
        return {name: torch.from_numpy(decoder.buffers[name][:size].copy()) for name, size in left}

    def write_cache(self, layer: int, k: Tensor, v: Tensor, first: int = 0) -> None:
        cache.write(*self._cache(layer), k, v, first)

    def read_cache(self, layer: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        k, v = cache.read(*self._cache(layer), end, first)
        return k.transpose(0, 1), v.transpose(0, 1)

    def _cache(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        own = self._decoder.layers[layer].buffers
        return own["keys"], own["values"]


class CudaKernels:
    """The launches of model/cuda/decode.py, one by one."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.device: torch.device = decoder.executor.device
        self._launches: dict[tuple[int, int], Mapping[str, Sequence[Any]]] = {}

    def here(self) -> AbstractContextManager:
        return self._decoder.executor.here()

    def raw(self, layer: int, position: int) -> bool:
        from kernel_templates.layer.cuda import finishes_in_attention

        return finishes_in_attention(self._decoder.configs(layer, self._decoder.bound(position)))

    def run(self, layer: int, parts: Sequence[str], position: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        buffers, executor = self._decoder.buffers, self._decoder.executor
        buffers["position"].fill_(position)
        for name, value in inputs.items():
            value = value.flatten().to(self.device)
            if name == "qkv":
                buffers[name][: value.numel()] = value
            else:  # quantized too, times the norm of what reads it
                norm = self._norm(layer, parts[0]) if name == "x" else None
                buffers[name].first(value.numel()).fill(value, norm, ACTIVATION)
        of_layer = self._of_layer(layer, self._decoder.bound(position))
        by_part = dict(zip(PARTS, of_layer.values(), strict=True))
        for name in parts:
            for launch in by_part[name]:
                launch.run(executor.target)
        left = passed(self._decoder.model.config, layer).items()
        found = ((name, buffers[name], size) for name, size in left)
        return {name: (v if isinstance(v, Tensor) else v.values)[:size].float().cpu() for name, v, size in found}

    def write_cache(self, layer: int, k: Tensor, v: Tensor, first: int = 0) -> None:
        own = self._decoder.model.layers[layer].buffers
        for name, rows in (("keys", k), ("values", v)):
            own[name][:, first : first + len(rows)] = rows.transpose(0, 1).to(self.device, torch.float16)

    def read_cache(self, layer: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        own = self._decoder.model.layers[layer].buffers
        k, v = (own[name][:, first:end].transpose(0, 1).float().cpu() for name in ("keys", "values"))
        return k, v

    def _norm(self, layer: int, part: str) -> Tensor:
        return self._decoder.model.layers[layer].buffers["ffn_norm" if part in ("out", "ffn") else "attn_norm"]

    def _of_layer(self, layer: int, context: int) -> Mapping[str, Sequence[Any]]:
        if (layer, context) not in self._launches:
            self._launches[layer, context] = self._decoder.layer_launches(layer, context)
        return self._launches[layer, context]
