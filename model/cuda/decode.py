"""One token on the GPU: the chain of kernels, captured once per context bucket and replayed ahead of the host.

A program is a sequence of parts: "embed" looks up the token in `token`, "layers" writes the cache at `position`, "head"
leaves logits, "greedy" and "sample" choose the next token, look its embedding up for the next program, and add 1 to the
position. So tokens follow each other on the device alone.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernel_templates.attention import cuda as attention
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.head import cuda as head
from kernel_templates.layer import cuda as layer_kernels
from kernel_templates.layer.space import part
from kernel_templates.sample_token import cuda as pick
from kernel_templates.space import Config
from model.cuda.execution import Executor, Program
from model.cuda.load import Loaded
from model.errors import ModelError
from model.problems import ACTIVATION, contexts
from model.sampling import Sampler

AHEAD = 8
"""Tokens started and not yet read. The host falls behind for a millisecond now and then (printing, collecting garbage),
and tokens of small models take 0.2 ms; what was started past an end token is wasted, which is 1 to 15 ms."""

STEP = ("embed", "layers", "head")


class Decoder:
    """Token after token through a loaded model. configs(layer, context): what a layer's kernels run with."""

    def __init__(
        self, model: Loaded, configs: Callable[[int, int], Config], head_config: Config, executor: Executor
    ) -> None:
        self.model, self.configs, self.head_config, self.executor = model, configs, head_config, executor
        self._contexts = contexts(model.capacity)
        self._programs: dict[tuple[tuple[str, ...], int], Program] = {}
        self._settings: pick.Scratch | None = None
        c, device = model.config, executor.device

        def whole(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        self.buffers: dict[str, Any] = {
            "x": Vector.allocate(c.hidden, device),
            "qkv": torch.full(((c.heads + 2 * c.kv_heads) * c.head_dim,), torch.nan, device=device),
            "attended": Vector.allocate(c.heads * c.head_dim, device),
            "gated": Vector.allocate(c.ffn, device),
            "logits": torch.full((c.vocab,), torch.nan, device=device),
            "position": whole(1),
            "token": whole(1),
            "history": whole(model.capacity),
            "status": whole(1),
            "rope": model.rope,
            "eps": c.norm_eps,
        }
        partials = head.partials(model.head, head_config)
        self.buffers["best_value"] = torch.full((partials,), torch.nan, device=device)
        self.buffers["best_id"] = whole(partials)

    @property
    def context(self) -> int:
        """Positions that the KV cache holds."""
        return self.model.capacity

    def step(self, token: int, position: int) -> Tensor:
        """Start one token at `position`; float32 [vocab] logits on the device, valid until the next program."""
        with self.executor.here():
            self.buffers["token"].fill_(token)
            self.buffers["position"].fill_(position)
            self.program(STEP, position)()
        return self.buffers["logits"]

    def predict(self, hidden: Tensor, position: int) -> Tensor:
        """Logits as of `step`, from what the last layer gave at `position`: float32 [hidden]."""
        with self.executor.here():
            self.buffers["x"].fill(hidden, self.model.output_norm, ACTIVATION)
            self.buffers["position"].fill_(position)
            self.program(("head",), position)()
        return self.buffers["logits"]

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        """`count` tokens: the first from the logits of the last `step` or `predict`, which were of position - 1.

        Raises ModelError when the largest logit is not a finite number.
        """
        if count < 1:
            return
        history, status = self.buffers["history"], self.buffers["status"]
        with self.executor.here():
            choice = self._use(sampler)
            status.zero_()
            courier = self.executor.courier(2, AHEAD)
            self.program((choice,), position)()
            courier.send(history[position:], status)
        sent = 1
        for received in range(count):
            with self.executor.here():
                while sent < count and sent - received < AHEAD:
                    self.program(("layers", "head", choice), position + sent - 1)()
                    courier.send(history[position + sent :], status)
                    sent += 1
                token, broken = courier.receive()
            if broken:
                raise ModelError(
                    "the largest logit is not a finite number; the model's numbers overflowed or its file is damaged"
                )
            yield token

    def program(self, parts: tuple[str, ...], position: int) -> Program:
        """What runs these parts for a token at `position`; built when first asked for."""
        bound = next(c for c in self._contexts if position < c) if "layers" in parts else 0
        if (parts, bound) not in self._programs:
            launches = [launch for name in parts for launch in self.launches(name, bound)]
            self._programs[parts, bound] = self.executor.program(launches)
        return self._programs[parts, bound]

    def launches(self, name: str, context: int) -> list[Launch]:
        """The kernels of one part, with the configurations for positions below `context`."""
        m, first_norm = self.model, self.model.layers[0].attn_norm
        if name == "embed":
            return pick.launches_embed(self.buffers, m.embedding, first_norm, ACTIVATION)
        if name == "greedy":
            return pick.launches_greedy(self.buffers, m.embedding, first_norm, ACTIVATION)
        if name == "sample":
            return pick.launches_sampling(self.buffers, m.embedding, self._sampling(), first_norm, ACTIVATION)
        if name == "head":
            bound = self.buffers | {"norm": m.output_norm}
            return head.launches(m.head, self.head_config, m.head_packed, bound)
        assert name == "layers"
        scratch = self._attention_scratch(context)
        return [launch for i in range(len(m.layers)) for launch in self._layer(i, context, scratch)]

    def _layer(self, i: int, context: int, scratch: dict[str, Tensor]) -> list[Launch]:
        layers = self.model.layers
        layer = layers[i]
        bound = (
            self.buffers
            | scratch
            | {
                "attn_norm": layer.attn_norm,
                "ffn_norm": layer.ffn_norm,
                "next_norm": layers[i + 1].attn_norm if i + 1 < len(layers) else self.model.output_norm,
                "q_norm": layer.q_norm,
                "k_norm": layer.k_norm,
                "keys": layer.keys,
                "values": layer.values,
            }
        )
        problem = replace(layer.problem, context=context)
        return layer_kernels.launches(problem, self.configs(i, context), layer.packed, bound)

    def _attention_scratch(self, context: int) -> dict[str, Tensor]:
        """What the splits of attention leave for each other: one for all layers, since one runs at a time."""
        size = 1
        for i, layer in enumerate(self.model.layers):
            problem = replace(layer.problem, context=context).attention_part
            size = max(size, attention.scratch_size(problem, part(self.configs(i, context), "attention")))
        heads, device = self.model.config.heads, self.executor.device
        return {
            "attention_scratch": torch.full((size,), torch.nan, device=device),
            "attention_counters": torch.zeros(heads, dtype=torch.int32, device=device),
        }

    def _sampling(self) -> pick.Scratch:
        if self._settings is None:
            self._settings = pick.Scratch.allocate(self.model.config.vocab, self.executor.device)
        return self._settings

    def _use(self, sampler: Sampler) -> str:
        """The part that chooses as `sampler` says, its settings on the device."""
        if sampler.temperature == 0 or sampler.top_k == 1:
            return "greedy"
        seed = secrets.randbits(63) if sampler.seed is None else sampler.seed
        self._sampling().set(sampler.temperature, sampler.top_k, sampler.top_p, seed)
        return "sample"
