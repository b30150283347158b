"""Many tokens at once: the steps of the plan over all of a chunk's tokens, through torch.

What it does not know is how a backend multiplies its packed matrices, keeps its cache and attends to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_templates.layer.chain import Link
from model.config import ModelConfig
from model.layer_plan import LayerState, Rope, Step
from model.layer_traits import LayerTraits

GATES: Mapping[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": partial(F.gelu, approximate="tanh")}
"""Gate functions by their names in problems."""


@dataclass(frozen=True)
class Chunk:
    """Tokens at positions first, first + 1, ... cos, sin: float32 [count, 1, rope_dim / 2], as a layer turns heads."""

    first: int
    count: int
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class BoundStep:
    """One operation of one layer, as far as it is known before there are tokens: a GPU waits for the host here, so
    what does not change from prompt to prompt is looked up once.

    run: gives what the operation writes, by its own names of buffers; own: the layer's norms and cache, by the same
    names, and its "traits"; passed: (operation's name, layer's name) of what the steps before it made.
    """

    link: Link
    run: Callable[[Chunk, Sequence[Any], Mapping[str, Any]], dict[str, Tensor]]
    packed: Sequence[Any]
    own: Mapping[str, Any]
    passed: tuple[tuple[str, str], ...]
    rope: Rope


class Prefill(ABC):
    """Runs prompt tokens through a model's layers into its KV cache."""

    def __init__(self, config: ModelConfig, layers: Sequence[LayerState]):
        self.config = config
        self.steps = [[self._bound(step, layer) for step in layer.plan.steps] for layer in layers]
        """Of each layer, in order."""
        self._ropes = list(dict.fromkeys(layer.plan.rope for layer in layers))

    def _bound(self, step: Step, layer: LayerState) -> BoundStep:
        operations = {
            "norm_qkv_rope": self._norm_qkv_rope,
            "attention": self._attention,
            "matvec": self._matvec,
            "ffn": self._ffn,
        }
        link, sizes = step.link, {name: tensor.shape[0] for name, tensor in step.vectors.items()}
        norms = {
            own: torch.as_tensor(layer.buffers[name])[: sizes[name]]
            for own, name in link.buffers.items()
            if name in sizes
        }
        passed = tuple((own, name) for own, name in link.buffers.items() if name not in layer.buffers)
        own = {**link.bound(layer.buffers), **norms, "traits": layer.plan.traits}
        return BoundStep(link, operations[link.operation.name], layer.packed[step.name], own, passed, layer.plan.rope)

    def run(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        """Process tokens at positions first, first + 1, ...; hidden states float32 [1, hidden] of the last token, or
        [tokens, hidden] of every one."""
        kept: list[Tensor] = []
        for i in range(0, len(tokens), self.most):
            hidden = self._chunk(tokens[i : i + self.most], first + i)
            kept = [*kept, hidden] if every else [hidden[-1:]]
        return torch.cat(kept)

    def run_step(self, step: BoundStep, chunks: Mapping[Rope, Chunk], buffers: Mapping[str, Any]) -> dict[str, Tensor]:
        """What one operation makes of `buffers`; both by the layer's names."""
        bound = {**step.own, **{own: buffers[name] for own, name in step.passed if name in buffers}}
        return step.link.written(step.run(chunks[step.rope], step.packed, bound))

    def chunks(self, first: int, count: int) -> dict[Rope, Chunk]:
        """Tokens at positions first, first + 1, ... for each way in which heads turn."""
        turned = {rope: self._rotation(rope, first, count)[:, None].chunk(2, -1) for rope in self._ropes}
        return {rope: Chunk(first, count, *parts) for rope, parts in turned.items()}

    def _chunk(self, tokens: list[int], first: int) -> Tensor:
        """float32 [tokens, hidden]."""
        chunks = self.chunks(first, len(tokens))
        buffers: dict[str, Any] = {"x": self._embed(tokens)}
        for layer in self.steps:
            for step in layer:
                buffers |= self.run_step(step, chunks, buffers)
        return buffers["x"]

    def _norm_qkv_rope(self, chunk: Chunk, packed: Sequence[Any], b: Mapping[str, Any]) -> dict[str, Tensor]:
        """ "qkv" holds the queries alone, [tokens, heads, head_dim]; keys and values are in the cache."""
        c = self.config
        sizes = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
        made = self._products(self._norm(b["x"], b["norm"]), packed, sizes)
        if "bias" in b:
            made = [part + bias for part, bias in zip(made, b["bias"].split(sizes), strict=True)]
        q, k, v = (part.reshape(chunk.count, -1, c.head_dim) for part in made)
        if "q_norm" in b:
            q, k = self._norm(q, b["q_norm"]), self._norm(k, b["k_norm"])
        self._append(b, chunk, _rope(k, chunk), v)
        return {"qkv": _rope(q, chunk)}

    def _attention(self, chunk: Chunk, packed: Sequence[Any], b: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"out": self._attend(b, chunk, b["q"], b["traits"])}

    def _matvec(self, chunk: Chunk, packed: Sequence[Any], b: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"out": self._add(b["out"], b["x"], packed, b)}

    def _ffn(self, chunk: Chunk, packed: Sequence[Any], b: Mapping[str, Any]) -> dict[str, Tensor]:
        *gate_up, down = packed
        gate, up = self._products(self._norm(b["x"], b["norm"]), gate_up, [self.config.ffn, self.config.ffn])
        return {"x": self._add(b["x"], GATES[b["traits"].gate_function](gate).mul_(up), [down], b)}

    def _add(self, residual: Tensor, x: Tensor, packed: Sequence[Any], b: Mapping[str, Any]) -> Tensor:
        """residual [tokens, rows] + x [tokens, cols] times the matrix, normed first if there is a "post_norm"."""
        if "post_norm" not in b:
            return self._add_product(residual, x, packed)
        (y,) = self._products(x, packed, [residual.shape[-1]])
        return residual + self._norm(y, b["post_norm"])

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension."""
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)

    @property
    @abstractmethod
    def most(self) -> int:
        """Tokens of a chunk."""

    @abstractmethod
    def _embed(self, tokens: list[int]) -> Tensor:
        """float32 [tokens, hidden]: rows of the embedding."""

    @abstractmethod
    def _rotation(self, rope: Rope, first: int, count: int) -> Tensor:
        """float32 [count, rope_dim]: cosines, then sines, at positions first, first + 1, ..."""

    @abstractmethod
    def _products(self, x: Tensor, packed: Sequence[Any], sizes: Sequence[int]) -> Sequence[Tensor]:
        """x [tokens, cols] times matrices that lie one below the other: float32 [tokens, rows] for each of `sizes`."""

    @abstractmethod
    def _add_product(self, residual: Tensor, x: Tensor, packed: Sequence[Any]) -> Tensor:
        """residual [tokens, rows] + x [tokens, cols] times the matrix."""

    @abstractmethod
    def _append(self, cached: Mapping[str, Any], chunk: Chunk, k: Tensor, v: Tensor) -> None:
        """Write k, v [tokens, kv_heads, head_dim] into "keys" and "values" at the chunk's positions."""

    @abstractmethod
    def _attend(self, cached: Mapping[str, Any], chunk: Chunk, q: Tensor, traits: LayerTraits) -> Tensor:
        """Causal attention of q [tokens, heads, head_dim] over all that is cached up to each token, or its window of
        it: [tokens, heads * head_dim]."""


def _rope(x: Tensor, chunk: Chunk) -> Tensor:
    """Turn pairs (i, i + n) of x [tokens, heads, head_dim], n = rope_dim / 2. What lies past 2 n stays."""
    cos, sin, n = chunk.cos, chunk.sin, chunk.cos.shape[-1]
    a, b = x[..., :n], x[..., n : 2 * n]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]], -1)
