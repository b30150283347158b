"""Many tokens in one pass over the weights: prompts, several texts at once, proposals to verify.

A pass has rows: `tokens` of each of `sequences` texts, neighbours at consecutive positions. What it reads is on the
device, so that its kernels are captured once for each size, a power of two, and replayed; rows that a call does not
need are at position -1. Nothing here waits for the device.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kernel_templates import registry
from kernel_templates.cuda import fragments, library
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.cuda.rows import add_norm, append, embed, gate, layer_inputs, output_gate, soft_cap
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.layer.chain import DELTA
from kernel_templates.paged_attention import cuda as paged_attention
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.cuda.delta_states import States
from model.cuda.execution import Executor, Program
from model.cuda.load import CudaLayer, Loaded
from model.cuda.mixture import MixtureRows
from model.cuda.norm_readers import Readers
from model.cuda.pass_buffers import PassBuffers
from model.cuda.pass_operands import Half, PassProduct, cut
from model.cuda.pass_products import PassProducts, adds
from model.cuda.row_norms import Norms, Reader
from model.problems import contexts
from model.widths import MOST, PassSize, bucket, pass_attention, pass_delta

CHUNK = MOST["cuda"]
"""Tokens of a prompt that are read at once: enough that products are bound by arithmetic."""
BESIDE_FROM = 64
"""Rows from which on the next matrix is expanded beside the present product, where that is asked for: products over
fewer are bound by memory, as expanding is."""


class Forward:
    """Passes through a loaded model over one cache, of each layer its part. configs: what problems run
    with; buffers: of another one on this device, to share; beside: expand the next matrix while the present one is
    multiplied; states: of the layers' gated delta nets, of each text by its number, if not the model's own."""

    def __init__(
        self, model: Loaded, cache: Sequence[PagedCache], configs: Callable[[Problem], Config], executor: Executor,
        buffers: PassBuffers | None = None, beside: bool = False, states: Sequence[States] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.cache, self.configs, self.executor = model, cache, configs, executor
        self.states = [layer.buffers for layer in model.layers] if states is None else states
        device = executor.device
        self._side = torch.cuda.Stream(device) if beside and device.type == "cuda" else None
        most, matrices = bucket(min(CHUNK, model.capacity)), 1 if self._side is None else 2
        self.buffers = PassBuffers.allocate(model, most, matrices, device) if buffers is None else buffers
        self.ones = torch.ones(model.config.hidden, device=device)
        self._contexts = contexts(model.capacity)
        self._inputs: dict[tuple[int, int], Tensor] = {}
        self._programs: dict[PassSize, Program] = {}
        self._attention_scratch = torch.empty(0, device=device)
        self._matmul_scratch = torch.empty(0, device=device)
        self._delta_scratch = torch.empty(0, device=device)
        self._logits = torch.empty(0, device=device)

    @property
    def most(self) -> int:
        """Rows of the largest pass."""
        return len(self.buffers.x)

    def over(self, cache: Sequence[PagedCache], states: Sequence[States]) -> "Forward":
        """Passes over what is kept of other texts through the same buffers."""
        return Forward(self.model, cache, self.configs, self.executor, self.buffers, self._side is not None, states)

    def read(self, tokens: Sequence[int], first: int, text: int = 0, every: bool = False) -> Tensor:
        """Bring tokens of one text into the cache at positions first, first + 1, ...

        What the last layer gave, float32 [1, hidden] of the last token, or [tokens, hidden] of every one. Valid until
        the next pass."""
        kept: list[Tensor] = []
        for at in range(0, len(tokens), self.most):
            part = tokens[at : at + self.most]
            positions = np.arange(first + at, first + at + len(part))
            self.start(PassSize(1, bucket(len(part)), self.bound(int(positions[-1]))), part, positions, text)
            x = self.buffers.x[: len(part)]
            kept = [*kept, x.clone()] if every else [x[-1:]]
        return kept[0] if len(kept) == 1 else torch.cat(kept)

    def start(self, size: PassSize, tokens: ArrayLike, positions: ArrayLike, texts: ArrayLike) -> None:
        """Run a pass over as many rows as there are tokens; those that its size has besides are not used."""
        self.place(size, tokens, positions, texts)
        self.program(size)()

    def place(self, size: PassSize, tokens: ArrayLike, positions: ArrayLike, texts: ArrayLike) -> None:
        """Write what a pass of this size reads, for as many rows as there are positions; the others are not used."""
        inputs = self.inputs(size.sequences, size.tokens)
        host = np.zeros(tuple(inputs["all"].shape), np.int32)
        host[1] = -1
        for row, values in zip(host, (tokens, positions, texts), strict=True):
            row[: np.size(positions)] = values
        # The memory is not pinned: it is read before this returns, and no kernel is waited for.
        inputs["all"].copy_(torch.from_numpy(host), non_blocking=True)

    def inputs(self, sequences: int, tokens: int) -> dict[str, Tensor]:
        """What passes of a size read: "tokens", "positions" and "sequences", int32 [rows]; "all" of them, [3, more]."""
        rows = sequences * tokens
        if (sequences, tokens) not in self._inputs:
            made = torch.zeros((3, max(rows, 4)), dtype=torch.int32, device=self.executor.device)
            made[1] = -1
            self._inputs[sequences, tokens] = made
        found = self._inputs[sequences, tokens]
        named = dict(zip(("tokens", "positions", "sequences"), found[:, :rows], strict=True))
        return {"all": found, **named}

    def logits(self, rows: int) -> Tensor:
        """float32 [rows, vocab], written by passes with a head."""
        vocab = self.model.head.vocab
        if self._logits.numel() < rows * vocab:
            self._logits = torch.empty(rows * vocab, device=self.executor.device)
        return self._logits[: rows * vocab].view(rows, vocab)

    def bound(self, position: int) -> int:
        """The context of passes that reach no further than a position."""
        return next(c for c in self._contexts if position < c)

    def program(self, size: PassSize) -> Program:
        """What runs a pass; built when first asked for."""
        if size not in self._programs:
            made = self.launches(size)
            if self._side is not None and size.rows >= BESIDE_FROM and not self.model.on_host:
                made = library.beside(made, self._side)
            self._programs[size] = self.executor.program(made, "pass")
        return self._programs[size]

    def launches(self, size: PassSize) -> list[Launch]:
        """The kernels of a pass in order. Attention's scratch and the logits are those of now: a later pass may need
        larger ones, and these live on with what was made of them."""
        return list(self.rows(size).launches())

    def rows(self, size: PassSize) -> "Rows":
        """The buffers of a pass, and its kernels in parts."""
        return Rows(self, size)

    def attention_scratch(self, elements: int) -> Tensor:
        """float32, shared by all layers."""
        if self._attention_scratch.numel() < elements:
            self._attention_scratch = torch.full((elements,), torch.nan, device=self.executor.device)
        return self._attention_scratch

    def delta_scratch(self, elements: int) -> Tensor:
        """float32, shared by all layers."""
        if self._delta_scratch.numel() < elements:
            self._delta_scratch = torch.full((elements,), torch.nan, device=self.executor.device)
        return self._delta_scratch

    def matmul_scratch(self, elements: int) -> Tensor:
        """float32, shared by all products."""
        if self._matmul_scratch.numel() < elements:
            self._matmul_scratch = torch.full((elements,), torch.nan, device=self.executor.device)
        return self._matmul_scratch


class Rows:
    """The buffers of a pass, cut to its rows and to a layer's sizes, and the launches between them. x float32 [rows,
    hidden]."""

    def __init__(self, forward: Forward, size: PassSize) -> None:
        self.forward, self.size = forward, size
        c, b, rows = forward.model.config, forward.buffers, size.rows

        self.model, self.config = forward.model, c
        self.inputs = forward.inputs(size.sequences, size.tokens)
        self.x, self.branch = b.x[:rows], cut(b.wide, rows, c.hidden)
        self._norms = Norms(self.x, b, c.norm_eps)
        self._products = PassProducts(forward, rows, self._norms)
        self._readers = Readers(forward, self._products, size.head)

    def launches(self) -> Iterator[Launch]:
        layers, branch = self.model.layers, None
        yield embed.launch(self.model.embedding, self.inputs["tokens"], self.x)
        yield from self._layer_inputs()
        for i, layer in enumerate(layers):
            if layer.plan.sizes.delta:
                yield from self._project_delta(layer, branch)
                yield from self._delta(i, layer)
            else:
                finish = self._finishes(layer)
                yield from self._heads(i, layer, branch, append_too=not finish)
                yield from self._attention(i, layer, finish)
            yield from self._out(layer, self._readers.feed_forward(layer))
            yield from self._feed_forward(layer, self._of_mixer(layer), self._readers.behind(i))
            branch = self._of_feed_forward(layer)
            if layer.plan.sizes.layer_input:
                yield from self._input(i, layer, branch)
                branch = self._of_input(layer)
        if self.size.head:
            yield from self._head(branch)
        elif branch is not None:
            yield self._norm("output_norm", branch, None)

    def parts(self, i: int) -> dict[str, list[Launch]]:
        """The kernels of a layer's operations, each alone, by the operations' prefixes: they read x, q or attended, and
        leave x whole where they add to it."""
        layer = self.model.layers[i]
        if layer.plan.sizes.delta:
            mixer = {"qkvz": self._project_delta(layer, None), "delta": self._delta(i, layer)}
        else:
            heads = self._heads(i, layer, None, append_too=True)
            mixer = {"qkv": heads, "attention": self._attention(i, layer, finish=False)}
        return {
            **{name: list(made) for name, made in mixer.items()},
            "out": [*self._out(layer), *self._add(self._of_mixer(layer))],
            **self._ends(i, layer),
        }

    def _ends(self, i: int, layer: CudaLayer) -> dict[str, list[Launch]]:
        """As of `parts`, of what comes behind the mixer."""
        ffn = [*self._feed_forward(layer, None), *self._add(self._of_feed_forward(layer))]
        if not layer.plan.sizes.layer_input:
            return {layer.plan.steps[-1].name: ffn}
        own = [*self._input(i, layer, None), *self._add(self._of_input(layer))]
        return {layer.plan.steps[-2].name: ffn, layer.plan.steps[-1].name: own}

    def q(self, layer: CudaLayer) -> Tensor:
        """float16 [rows, heads * head_dim]: what attention of a layer reads."""
        return cut(self.forward.buffers.q, self.size.rows, layer.plan.sizes.attended)

    def attended(self, layer: CudaLayer) -> Half:
        """What a layer's mixer leaves, in the order of columns that its output projection reads."""
        products, _ = self._out_products(layer)
        return self._products.half(self.forward.buffers.attended, layer.plan.sizes.attended, products)

    def _qkv(self, layer: CudaLayer) -> Tensor:
        """float32 [rows, rows of queries, keys and values]: raw heads."""
        return cut(self.forward.buffers.wide, self.size.rows, layer.plan.sizes.qkv_rows)

    def _norm(self, name: str, branch: add_norm.Branch | None, weight: Tensor | None, h: Half | None = None) -> Launch:
        norm = None if weight is None or h is None else add_norm.Norm(weight, h.values, h.order)
        return add_norm.launch(name, self.x, branch, norm, self.config.norm_eps)

    def _add(self, branch: add_norm.Branch | None) -> list[Launch]:
        return [] if branch is None else [self._norm("add", branch, None)]

    def _of_mixer(self, layer: CudaLayer) -> add_norm.Branch | None:
        """What is still to be added to the residual stream behind the mixer; None where its product did."""
        products, branch = self._out_products(layer)
        return None if adds(products, branch) else branch

    def _of_feed_forward(self, layer: CudaLayer) -> add_norm.Branch | None:
        if layer.mixture is not None:
            return None if self._by_host(layer) else self._mixture(layer).branch
        products, branch = self._down_products(layer)
        return None if adds(products, branch) else branch

    def _out_products(self, layer: CudaLayer) -> tuple[list[PassProduct], add_norm.Branch]:
        own = layer.buffers
        branch = add_norm.Branch(self.branch, post_norm=own.get("post_attn_norm"), bias=own.get("out_bias"))
        return self._products.of("out", [layer.packed["out"]]), branch

    def _down_products(self, layer: CudaLayer) -> tuple[list[PassProduct], add_norm.Branch]:
        own = layer.buffers
        scale = None if layer.plan.sizes.layer_input else own.get("out_scale")
        branch = add_norm.Branch(
            self.branch, 1 / GATED_SCALE.value, post_norm=own.get("post_ffn_norm"), out_scale=scale
        )
        return self._products.of("down", [layer.packed["ffn"][2:]]), branch

    def _of_input(self, layer: CudaLayer) -> add_norm.Branch:
        own = layer.buffers
        return add_norm.Branch(
            self.branch, 1 / GATED_SCALE.value, post_norm=own["post_input_norm"], out_scale=own.get("out_scale")
        )

    def _branch_off(
        self, products: Sequence[PassProduct], h: Half, branch: add_norm.Branch, reader: Reader | None
    ) -> Iterator[Any]:
        """The branch of the residual stream that products give, or where they add, the stream with it; and with few
        rows what the reader of the norm behind takes."""
        if (norm := self._norms.in_front(products, branch, reader)) is not None:
            assert reader is not None
            yield from self._products.multiply(products, h, reader.h.values, norm=norm)
        elif adds(products, branch):
            yield from self._products.multiply(products, h, self.x, factor=branch.factor)
        else:
            yield from self._products.multiply(products, h, branch.y)

    def _heads(self, i: int, layer: CudaLayer, branch: add_norm.Branch | None, append_too: bool) -> Iterator[Any]:
        """Raw heads, and where attention does not finish them, q and what goes into the cache."""
        yield from self._products.multiply_normed(self._readers.mixer(layer), branch, self._qkv(layer))
        if append_too:
            rows = {**self.inputs, "qkv": self._qkv(layer), "q": self.q(layer)}
            yield append.launch(self._how(layer), rows, self.forward.cache[i])

    def _how(self, layer: CudaLayer) -> append.Heads:
        s, own = layer.plan.sizes, layer.buffers
        norms = (own["q_norm"], own.get("k_norm", own["q_norm"])) if "q_norm" in own else None
        eps = self.config.norm_eps
        shape, v_norm = (s.heads, s.own_kv_heads, s.head_dim), self.config.architecture.v_norm
        return append.Heads(*shape, own["rope"], eps, own.get("qkv_bias"), norms, s.output_gate, v_norm)

    def _finishes(self, layer: CudaLayer) -> bool:
        """Whether attention finishes the heads: a launch takes longer than what few rows need."""
        problem = self._attention_problem(layer)
        s = layer.plan.sizes
        if s.output_gate or s.cache_of is not None:  # a gate lies between the queries, or there is nothing to append
            return False
        return paged_attention.finishes(problem, self.forward.configs(problem))

    def _attention_problem(self, layer: CudaLayer) -> PagedAttention:
        return pass_attention(layer.plan.sizes, self.size, self.model.form)

    def _attention(self, i: int, layer: CudaLayer, finish: bool) -> Iterator[Launch]:
        template: Any = registry.cuda(PagedAttention.op)
        s, size, problem = layer.plan.sizes, self.size, self._attention_problem(layer)
        config = self.forward.configs(problem)
        out = self.attended(layer)
        buffers = {
            **self.inputs, "q": self.q(layer).view(size.rows, s.heads, s.head_dim),
            "out": out.values, "out_order": out.order, "paged": self.forward.cache[i],
            "sinks": layer.buffers.get("sinks"),
            "qkv": self._qkv(layer), "finish": self._how(layer) if finish else None,
            "attention_counters": self.forward.buffers.counters,
            "attention_scratch": self.forward.attention_scratch(template.scratch_size(problem, config)),
        }  # fmt: skip
        yield from template.launches(problem, config, (), buffers)
        if s.output_gate:
            yield output_gate.launch(self._qkv(layer), out.values, s.heads, s.head_dim, out.order)

    def _project_delta(self, layer: CudaLayer, branch: add_norm.Branch | None) -> Iterator[Any]:
        yield from self._products.multiply_normed(self._readers.mixer(layer), branch, self._projected(layer))

    def _projected(self, layer: CudaLayer) -> Tensor:
        """float32 [rows, projected_size]: what a gated delta net reads."""
        delta = layer.plan.sizes.delta
        assert delta is not None
        return cut(self.forward.buffers.wide, self.size.rows, delta.projected_size)

    def _delta(self, i: int, layer: CudaLayer) -> Iterator[Launch]:
        template: Any = registry.cuda(GatedDelta.op)
        assert layer.plan.sizes.delta is not None
        problem, out = pass_delta(layer.plan.sizes.delta, self.size), self.attended(layer)
        config = self.forward.configs(problem)
        buffers = {
            **self.inputs, **DELTA.bound(layer.buffers), **self.forward.states[i], "projected": self._projected(layer),
            "eps": self.config.norm_eps, "out": out.values, "out_order": out.order,
            "delta_scratch": self.forward.delta_scratch(template.scratch_size(problem, config)),
        }  # fmt: skip
        yield from template.launches(problem, config, (), buffers)

    def _out(self, layer: CudaLayer, reader: Reader | None = None) -> Iterator[Any]:
        products, branch = self._out_products(layer)
        yield from self._branch_off(products, self.attended(layer), branch, reader)

    def _by_host(self, layer: CudaLayer) -> bool:
        """Whether the host computes the mixture, and adds to the residual stream."""
        return layer.host is not None and not layer.host.streamed(self.size.rows)

    def _mixture(self, layer: CudaLayer) -> MixtureRows:
        if layer.host is not None:
            layer = replace(layer, packed={**layer.packed, "moe": layer.host.packed})
        return MixtureRows(layer, self.forward.buffers, self.forward.configs, self.size.rows, self.config.norm_eps)

    def _feed_forward(
        self, layer: CudaLayer, branch: add_norm.Branch | None, behind: Reader | None = None
    ) -> Iterator[Any]:
        return self._ffn(layer, branch, behind) if layer.mixture is None else self._moe(layer, branch)

    def _moe(self, layer: CudaLayer, branch: add_norm.Branch | None) -> Iterator[Any]:
        """The shared expert, the router and the others. Where a mixture stands beside a network each of the three norms
        the stream for itself."""
        if layer.host is not None and self._by_host(layer):
            yield from self._add(branch)
            yield layer.host.rows(self.x, self.inputs["positions"])
            return
        if layer.host is not None:
            yield layer.host.fetch()
        mixture, cols, own, h = self._mixture(layer), self.config.hidden, layer.buffers, None
        beside = bool(mixture.problem.beside)
        if mixture.shared is not None:
            reader = self._readers.network(layer)
            following = self._products.of("shared_down", [layer.packed["moe"][6:]])
            gated = yield from self._gated(layer, reader, branch, following)
            yield from self._products.multiply(following, gated, mixture.shared)
            branch, h = None, reader.h
        if beside or h is None or h.order != mixture.order:
            normed = self.forward.buffers.normed[cols, mixture.order]
            h = Half(cut(normed, self.size.rows, fragments.width(cols, mixture.order)), cols, mixture.order)
            norm = "router_norm" if beside else "ffn_norm"
            made, _ = self._norms.read(Reader(norm, own[norm], (), h), branch)
            yield from made
        yield from mixture.route(h.values, self.inputs["positions"])
        if beside:
            made, _ = self._norms.read(Reader("ffn_norm", own["ffn_norm"], (), h), None)
            yield from made
        yield from mixture.launches(h.values)

    def _ffn(self, layer: CudaLayer, branch: add_norm.Branch | None, behind: Reader | None) -> Iterator[Any]:
        following, after = self._down_products(layer)
        gated = yield from self._gated(layer, self._readers.network(layer), branch, following)
        yield from self._branch_off(following, gated, after, behind)

    def _gated(
        self, layer: CudaLayer, reader: Reader, branch: add_norm.Branch | None, following: Sequence[PassProduct]
    ) -> Generator[Any, None, Half]:
        """The norm before a network, and its gate and up, gated: what this gives, as the products behind it read it."""
        both = sum(product.problem.rows for product in reader.products)
        gated = self._products.half(self.forward.buffers.gated, both // 2, following)
        if any(product.problem.gate for product in reader.products):
            yield from self._products.multiply_normed(reader, branch, gated.values, gated.order)
        else:
            gate_up = cut(self.forward.buffers.wide, self.size.rows, both)
            yield from self._products.multiply_normed(reader, branch, gate_up)
            yield gate.gate(gate_up, gated.values, layer.plan.sizes.gate_function, gated.order)
        return gated

    def _layer_inputs(self) -> Iterator[Any]:
        """What each layer gets of each row, behind its embedding."""
        inputs = self.model.inputs
        if inputs is None:
            return
        mixed, columns = self.forward.buffers.inputs[: self.size.rows], inputs.problem.rows
        yield embed.launch(inputs.table, self.inputs["tokens"], mixed)
        products = self._products.of("layer_inputs", [inputs.packed])
        h = self._products.half(self.forward.buffers.normed, self.config.hidden, products)
        yield self._norm("input_norm", None, self.forward.ones, h)
        projected = cut(self.forward.buffers.wide, self.size.rows, columns)
        yield from self._products.multiply(products, h, projected)
        yield layer_inputs.mix(self.x, projected, inputs.norm, mixed, self.config.norm_eps)

    def _input(self, i: int, layer: CudaLayer, branch: add_norm.Branch | None) -> Iterator[Any]:
        gate_planes, proj = layer.packed["input"]
        b, size, eps = self.forward.buffers, layer.plan.sizes.layer_input, self.config.norm_eps
        products = self._products.of("input_gate", [(gate_planes,)])
        following = self._products.of("input_proj", [(proj,)])
        h = self._products.half(b.normed, self.config.hidden, products)
        gated = self._products.half(b.gated, size, following)
        yield self._norm("input_norm", branch, self.forward.ones, h)
        raised = cut(b.wide, self.size.rows, size)
        yield from self._products.multiply(products, h, raised)
        inputs = b.inputs[: self.size.rows]
        yield layer_inputs.gate(self.x, raised, inputs, i * size, gated.values, eps, gated.order)
        yield from self._products.multiply(following, gated, self.branch)

    def _head(self, branch: add_norm.Branch | None) -> Iterator[Any]:
        logits = self.forward.logits(self.size.rows)
        yield from self._products.multiply_normed(self._readers.head(), branch, logits)
        if self.model.head.softcap:
            yield soft_cap.launch(logits, self.model.head.softcap)
