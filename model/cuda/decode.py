"""One token on the GPU: the chain of kernels, captured once per context bucket and replayed ahead of the host.

A program is a sequence of parts: "embed" looks up the token in `token`, "layers" writes the cache at `position`, "take"
brings what the last layer gave from elsewhere, "head" leaves logits, "greedy" and "sample" choose the next token, look
its embedding up for the next program, and add 1 to the position. So tokens follow each other on the device alone.
"""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_templates.attention import cuda as attention
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.rows import embed, take_row
from kernel_templates.cuda.vector import Vector
from kernel_templates.head import cuda as head
from kernel_templates.layer import cuda as layer_kernels
from kernel_templates.layer.problem import Layer
from kernel_templates.layer.space import part
from kernel_templates.moe import rows as moe_rows
from kernel_templates.per_layer_inputs import cuda as per_layer_inputs
from kernel_templates.sample_token import cuda as sample_token
from kernel_templates.space import Config
from model.cuda.delta_states import Checkpoint
from model.cuda.execution import Executor, Program
from model.cuda.load import Loaded
from model.errors import NOT_FINITE, ModelError
from model.layer_plan import HEAD, LAYER_INPUTS, buffer_sizes
from model.problems import ACTIVATION, contexts
from model.runner import More, always
from model.sampling import Sampler

AHEAD = 8
"""Tokens started and not yet read. The host falls behind for a millisecond now and then (printing, collecting garbage),
and tokens of small models take 0.2 ms; what was started past an end token is wasted, which is 1 to 15 ms."""

STEP = ("embed", "layers", "head")

MULTIPLIED = ("x", "attended", "gated", "input_gated")
"""Buffers that a product reads: kernels leave them quantized too."""
NORMED = ("raised", "projected_inputs")
"""Buffers that a product writes for a kernel which wants their squares as well."""


class Decoder:
    """Token after token through a loaded model. configs(layer, context): what a layer's kernels run with."""

    def __init__(
        self, model: Loaded, configs: Callable[[int, int], Config], head_config: Config,
        inputs_config: Config | None, executor: Executor,
    ) -> None:  # fmt: skip
        self.model, self.configs, self.head_config, self.executor = model, configs, head_config, executor
        self.inputs_config = inputs_config
        self._contexts = contexts(model.capacity)
        self._programs: dict[tuple[tuple[str, ...], int], Program] = {}
        self._settings: sample_token.Scratch | None = None
        self.taken_in = 0
        """Tokens of the text that its layers have seen, or are about to."""
        self.checkpoint: Checkpoint | None = None
        c, device = model.config, executor.device

        def whole(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        def floats(size: int) -> Tensor:
            return torch.full((size,), torch.nan, device=device)

        self.buffers: dict[str, Any] = {
            name: Vector.allocate(size, device) if name in (*MULTIPLIED, *NORMED) else floats(size)
            for name, size in buffer_sizes(c).items()
        } | {
            "branch": Vector.allocate(c.hidden, device),
            "shared_branch": Vector.allocate(c.hidden, device),
            "hidden": floats(c.hidden),
            "position": whole(1),
            "token": whole(1),
            "history": whole(model.capacity),
            "status": whole(1),
            "eps": c.norm_eps,
        }
        self.buffers |= moe_rows.allocate(model.mixtures, 1, device)
        partials = head.partials(model.head, head_config)
        self.buffers["best_value"] = floats(partials)
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
            self.take_in(position, 1)
            self.program(STEP, position)()
        return self.buffers["logits"]

    def predict(self, hidden: Tensor, position: int) -> Tensor:
        """Logits as of `step`, from what the last layer gave at `position`: float32 [hidden]."""
        with self.executor.here():
            self.buffers["hidden"].copy_(hidden, non_blocking=True)
            self.buffers["position"].fill_(position)
            self.program(("take", "head"), position)()
        return self.buffers["logits"]

    def stream(self, position: int, count: int, sampler: Sampler, more: More = always) -> Iterator[int]:
        """`count` tokens: the first from the logits of the last `step` or `predict`, which were of position - 1. Fewer
        as `Runner.stream` says: what is started is read in any case.

        Raises ModelError when the largest logit is not a finite number.
        """
        if count < 1:
            return
        history, status = self.buffers["history"], self.buffers["status"]
        with self.executor.here():
            choice = self._use(sampler)
            status.zero_()
            readback = self.executor.readback(2, AHEAD)
            self.program((choice,), position)()
            readback.send(history[position : position + 1], status)
        sent, received = 1, 0
        ahead = 1 if self.model.on_host else AHEAD  # a program that waits for the host begins when it is called
        while True:
            with self.executor.here():
                began = sent
                while sent < count and sent - received < ahead:
                    # One for each that was read keeps the device at work; more of them wait for what has come already.
                    if (sent > began and readback.arrived()) or not more(sent - received):
                        break
                    self.take_in(position + sent - 1, 1)
                    self.program(("layers", "head", choice), position + sent - 1)()
                    readback.send(history[position + sent : position + sent + 1], status)
                    sent += 1
                if received == sent:
                    return
                token, broken = readback.receive()
            received += 1
            if broken:
                raise ModelError(NOT_FINITE)
            yield token

    def take_in(self, first: int, count: int) -> None:
        """Say, before it happens, that layers take in tokens at positions first, first + 1, ..."""
        if self.checkpoint is not None and first < self.checkpoint.position:
            self.checkpoint = None  # it is of another text
        self.taken_in = first + count

    def program(self, parts: tuple[str, ...], position: int) -> Program:
        """What runs these parts for a token at `position`; built when first asked for."""
        bound = self.bound(position) if "layers" in parts else 0
        if (parts, bound) not in self._programs:
            launches = [launch for name in parts for launch in self.launches(name, bound)]
            self._programs[parts, bound] = self.executor.program(launches)
        return self._programs[parts, bound]

    def bound(self, position: int) -> int:
        """The context whose kernels a token at `position` runs."""
        return next(c for c in self._contexts if position < c)

    def launches(self, name: str, context: int) -> list[Any]:
        """The kernels of one part, with the configurations for positions below `context`."""
        m, first_norm = self.model, self._next_norm(-1)
        if name == "embed":
            return sample_token.launches_embed(self.buffers, m.embedding, first_norm, ACTIVATION)
        if name == "greedy":
            return sample_token.launches_greedy(self.buffers, m.embedding, first_norm, ACTIVATION)
        if name == "sample":
            return sample_token.launches_sampling(self.buffers, m.embedding, self._sampling(), first_norm, ACTIVATION)
        if name == "take":
            return [take_row.launch(self.buffers["hidden"], m.output_norm, self.buffers["x"], ACTIVATION)]
        if name == "head":
            bound = HEAD.bound(self.buffers | {"output_norm": m.output_norm})
            return head.launches(m.head, self.head_config, m.head_packed, bound)
        assert name == "layers"
        scratch = self._scratch(context)
        layers = [self._layer(i, context, scratch) for i in range(len(m.layers))]
        return [*self._layer_inputs(), *(launch for by_part in layers for made in by_part.values() for launch in made)]

    def _layer_inputs(self) -> list[Launch]:
        """What each layer gets of the token, which is embedded already."""
        inputs = self.model.inputs
        if inputs is None or self.inputs_config is None:
            return []
        bound = LAYER_INPUTS.bound(self.buffers | {"input_norm": inputs.norm})
        row = embed.launch(inputs.table, self.buffers["token"], self.buffers["layer_inputs"][None])
        return [row, *per_layer_inputs.launches(inputs.problem, self.inputs_config, inputs.packed, bound)]

    def layer_launches(self, i: int, context: int) -> dict[str, list[Launch]]:
        """The kernels of layer `i` alone by its parts' prefixes, as a token below `context` runs them."""
        return self._layer(i, context, self._scratch(context))

    def _layer(self, i: int, context: int, scratch: dict[str, Tensor]) -> dict[str, list[Launch]]:
        layer = self.model.layers[i]
        bound = {**self.buffers, **scratch, **layer.buffers, "next_norm": self._next_norm(i)}
        if size := layer.plan.sizes.layer_input:
            bound["input"] = self.buffers["layer_inputs"][i * size : (i + 1) * size]
        problem = layer.problem.below(context)
        made = layer_kernels.launches_by_part(problem, self.configs(i, context), layer.planes, bound)
        if layer.host is not None:
            made["moe"] = layer.host.token(self.buffers["x"], bound["next_norm"])
        return made

    def _next_norm(self, i: int) -> Tensor:
        """What is read first after layer `i`: the next layer's norm, or the head's."""
        if i + 1 == len(self.model.layers):
            return self.model.output_norm
        following = self.model.layers[i + 1]
        return following.buffers[following.plan.first_norm]

    def _scratch(self, context: int) -> dict[str, Tensor]:
        """What programs of attention or of a gated delta net leave for each other, and how many have ended: one set for
        all layers, since one runs at a time."""
        size, sizes, device = 1, self.model.config.sizes, self.executor.device
        for i, layer in enumerate(self.model.layers):
            if isinstance(problem := layer.problem.below(context), Layer):
                config = part(self.configs(i, context), "attention")
                size = max(size, attention.scratch_size(problem.attention_part, config))
        heads = max(s.delta.heads if s.delta else s.heads for s in sizes)
        counters = torch.zeros(heads, dtype=torch.int32, device=device)
        return {
            "attention_scratch": torch.full((size,), torch.nan, device=device),
            "attention_counters": counters,
            "delta_counters": counters,
        }

    def _sampling(self) -> sample_token.Scratch:
        if self._settings is None:
            self._settings = sample_token.Scratch.allocate(self.model.config.vocab, self.executor.device)
        return self._settings

    def _use(self, sampler: Sampler) -> str:
        """The part that chooses as `sampler` says, its settings on the device."""
        if sampler.temperature == 0 or sampler.top_k == 1:
            return "greedy"
        seed = secrets.randbits(63) if sampler.seed is None else sampler.seed
        self._sampling().set(sampler.temperature, sampler.top_k, sampler.top_p, seed)
        return "sample"
