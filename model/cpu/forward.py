"""Rows through a model on the CPU: a row is one token of one text, and all rows of a pass share each product.

A prompt is a pass over many rows of one text, speculation one over a few, several texts one with a row of each. What
the rows are is data: a graph of native kernels is bound once for each size of pass, and replayed.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from kernel_templates import formats, memory, registry
from kernel_templates.cpu import embedding, machine, row_attention, rows
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.graph import Step as GraphStep
from kernel_templates.cpu.panels import step_of
from kernel_templates.cpu.row_attention import RowAttention
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.matmul import cpu as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model import layer_plan, widths
from model.cpu.decode import Decoder
from model.layer_plan import LayerState

MOST = widths.MOST["cpu"]
"""Rows of a pass."""
TEXTS = 1026
"""Texts that may have a cache at once."""
OWN = 0
"""The text whose cache is the decoder's."""
Caches = Sequence[Mapping[str, np.ndarray]]
"""Of a text: "keys" and "values" of each layer, as of `attention.cache`."""


def bucket(count: int) -> int:
    """The size of pass that so many rows run as: the next power of two."""
    return 1 << (count - 1).bit_length()


def products(decoder: Decoder) -> list[Matmul]:
    """The problem of every product, in passes of each size."""
    shapes = dict.fromkeys((p.rows, p.cols, p.format) for p in _packed(decoder))
    sizes = [1 << bit for bit in range(MOST.bit_length())]
    return [Matmul(*shape, tokens) for shape in shapes for tokens in sizes]


class Forward:
    """Passes over the rows of some texts, each with its own cache, through a decoder's weights."""

    def __init__(
        self, decoder: Decoder, configs: Mapping[Problem, Config] = MappingProxyType({}), texts: int = TEXTS,
        most: int = MOST,
    ):  # fmt: skip
        """configs: of products, where they have winners; texts: that may have a cache at once; most: rows of a pass."""
        self.decoder, self._configs, self.most = decoder, configs, most
        c = decoder.config
        self._features, self._kernels = machine.features(), dict[tuple, Kernel]()
        self._caches: dict[int, Caches] = {}
        self._tables = [np.zeros((texts, 3), np.int64) for _ in decoder.layers]
        self.place(OWN, [layer.buffers for layer in decoder.layers])
        self._tokens, self._positions, self._texts = (np.zeros(most, np.int64) for _ in range(3))
        self._count, self._span_count = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._spans = np.zeros((most, row_attention.SPAN), np.int64)
        self._turned = {rope: _floats(most, rope.dim) for rope in decoder.plan.ropes}
        self.x, self._branch, self.normed = (_floats(most, c.hidden) for _ in range(3))
        largest = layer_plan.buffer_sizes(c)
        self._qkv, self._attended = (_floats(most, largest[name]) for name in ("qkv", "attended"))
        self._gate, self._up = (_floats(most, largest["gated"]) for _ in range(2))
        self._inputs, self._projected = (_floats(most, largest.get("layer_inputs", 0)) for _ in range(2))
        self._gated_input = _floats(most, c.layer_input)
        self._eps = np.array([c.norm_eps], np.float32)
        self._scratch = memory.empty((0,), np.uint8)
        self._attending = memory.empty((0,), np.uint8)
        self._graphs: dict[int, Graph] = {}
        self._heads: dict[int, Graph] = {}
        self._logits = _floats(0, 1)

    def place(self, text: int, caches: Caches) -> None:
        """Give a text its cache, from the next pass on."""
        self._caches[text] = caches
        for table, cached in zip(self._tables, caches, strict=True):
            table[text] = rows.described(cached["keys"], cached["values"])

    def run(self, tokens: Sequence[int], positions: Sequence[int], texts: Sequence[int], threads: int) -> np.ndarray:
        """One pass: rows of a text are neighbours at consecutive positions. float32 [rows, hidden], what the last layer
        gave, valid until the next pass."""
        self.prepare(tokens, positions, texts)
        self._graph(bucket(len(tokens))).replay(threads)
        return self.x[: len(tokens)]

    def warm_up(self) -> None:
        """Make the graph of the largest passes, which compiles kernels that no process here has compiled before."""
        self._graph(bucket(self.most))

    def run_alone(self, layer: int, operation: str, threads: int) -> None:
        """One operation of one layer on what the buffers hold, for the rows that were prepared."""
        size = bucket(int(self._count[0]))
        self._reserve(size)
        Graph(self.decoder.pool, self._layer(size, layer)[operation]).replay(threads)

    def prepare(self, tokens: Sequence[int], positions: Sequence[int], texts: Sequence[int]) -> None:
        """Set what the rows of a pass are."""
        count = len(tokens)
        self._count[0] = count
        self._tokens[:count], self._positions[:count], self._texts[:count] = tokens, positions, texts
        self._cut()
        for rope, rotation in self.decoder.rotations.items():
            self._turned[rope][:count] = rotation.table(self._positions[:count])

    def logits(self, threads: int) -> np.ndarray:
        """float32 [rows, vocab] of all rows of the last pass, valid until the next call."""
        count = int(self._count[0])
        size = bucket(count)
        if size not in self._heads:
            self._heads[size] = self._head(size)
        self._heads[size].replay(threads)
        return self._logits[:count, : self.decoder.config.vocab]

    def _cut(self) -> None:
        """Into spans: rows of one text, as many as attention takes together."""
        count, texts, spans = int(self._count[0]), self._texts, 0
        longest = min(self._attention(layer).span for layer in self.decoder.layers)
        first = 0
        while first < count:
            end = first + 1
            while end < min(count, first + longest) and texts[end] == texts[first]:
                end += 1
            self._spans[spans] = first, end - first, texts[first]
            first, spans = end, spans + 1
        self._span_count[0] = spans

    def _graph(self, size: int) -> Graph:
        if size not in self._graphs:
            self._graphs[size] = self._bound(size)
        return self._graphs[size]

    def _bound(self, size: int) -> Graph:
        d = self.decoder
        self._reserve(size)
        steps = []
        for table, out in zip(d.embeddings, (self.x, self._inputs), strict=False):
            kernel = self._kernel(embedding.compile_rows, table.format, table.cols, table.scale)
            steps.append(embedding.bind_rows(kernel, table.raw, self._tokens, out, self._count))
        steps += self._layer_inputs(size)
        for layer in range(d.config.layers):
            for made in self._layer(size, layer).values():
                steps += made
        return Graph(d.pool, steps)

    def qkv(self, layer: int) -> np.ndarray:
        """float32 [most, rows of queries, keys and values] of a layer."""
        return _narrowed(self._qkv, self.decoder.config.layer(layer).qkv_rows)

    def attended(self, layer: int) -> np.ndarray:
        """float32 [most, heads * head_dim] of a layer."""
        return _narrowed(self._attended, self.decoder.config.layer(layer).q_rows)

    def _layer(self, size: int, index: int) -> dict[str, list[GraphStep]]:
        """By the names of its operations (`layer.chain`), in their order."""
        made = {
            "qkv": self._project,
            "attention": self._attend,
            "out": self._out,
            "ffn": self._ffn,
            "input": self._input,
        }
        return {step.name: made[step.name](size, index) for step in self.decoder.layers[index].plan.steps}

    def _project(self, size: int, index: int) -> list[GraphStep]:
        layer, qkv, first = self.decoder.layers[index], self.qkv(index), 0
        steps = [self._norm(layer.buffers["attn_norm"], self.normed)]
        for packed in layer.packed["qkv"]:
            steps.append(self._product(size, packed, self.normed, qkv, first))
            first += packed.rows
        return [*steps, self._append(index)]

    def _attend(self, size: int, index: int) -> list[GraphStep]:
        kernel = self._kernel(row_attention.compile, self._attention(self.decoder.layers[index]), self._features)
        return [
            row_attention.bind(
                kernel, self.qkv(index), self.attended(index), self._positions, self._tables[index], self._spans,
                self._span_count, self._attending,
            )
        ]  # fmt: skip

    def _out(self, size: int, index: int) -> list[GraphStep]:
        layer = self.decoder.layers[index]
        (out,) = layer.packed["out"]
        return [
            self._product(size, out, self.attended(index), self._branch),
            self._add(layer.buffers.get("post_attn_norm")),
        ]

    def _ffn(self, size: int, index: int) -> list[GraphStep]:
        layer = self.decoder.layers[index]
        b, s, (gate, up, down) = layer.buffers, layer.plan.sizes, layer.packed["ffn"]
        gate_rows, up_rows = _narrowed(self._gate, s.ffn), _narrowed(self._up, s.ffn)
        gated = self._kernel(rows.compile_gate, s.ffn, s.gate_function)
        return [
            self._norm(b["ffn_norm"], self.normed),
            self._product(size, gate, self.normed, gate_rows),
            self._product(size, up, self.normed, up_rows),
            rows.bind_gate(gated, gate_rows, up_rows, self._count),
            self._product(size, down, gate_rows, self._branch),
            self._add(b.get("post_ffn_norm"), None if s.layer_input else b.get("out_scale")),
        ]

    def _input(self, size: int, index: int) -> list[GraphStep]:
        layer, c, gated = self.decoder.layers[index], self.decoder.config, self._gated_input
        b, (gate, proj) = layer.buffers, layer.packed["input"]
        kernel = self._kernel(rows.compile_gate_input, c.layer_input, self._inputs.shape[1])
        return [
            self._product(size, gate, self.x, gated),
            rows.bind_gate_input(kernel, gated, self._inputs, self._count, index * c.layer_input),
            self._product(size, proj, gated, self._branch),
            self._add(b["post_input_norm"], b.get("out_scale")),
        ]

    def _layer_inputs(self, size: int) -> list[GraphStep]:
        """What each layer gets of each row, but for what their embedding has of it."""
        d, c = self.decoder, self.decoder.config
        if not c.layer_input:
            return []
        (w,) = d.inputs_packed
        kernel = self._kernel(rows.compile_mix_inputs, c.hidden, c.layers, c.layer_input)
        return [
            self._product(size, w, self.x, self._projected),
            rows.bind_mix_inputs(kernel, self._projected, d.input_norm, self._inputs, self._count, self._eps),
        ]

    def _attention(self, layer: LayerState) -> RowAttention:
        s = layer.plan.sizes
        return RowAttention(s.heads, s.kv_heads, s.head_dim, s.scale or s.head_dim**-0.5, s.window, s.softcap)

    def _norm(self, weight: np.ndarray, out: np.ndarray) -> GraphStep:
        kernel = self._kernel(rows.compile_norm, self.decoder.config.hidden)
        return rows.bind_norm(kernel, self.x, out, self._count, weight, self._eps)

    def _add(self, post_norm: np.ndarray | None, scale: np.ndarray | None = None) -> GraphStep:
        kernel = self._kernel(
            rows.compile_add, self.decoder.config.hidden, post_norm is not None, scale is not None
        )  # fmt: skip
        given = (0 if vector is None else vector for vector in (post_norm, scale))
        return rows.bind_add(kernel, self.x, self._branch, self._count, next(given), self._eps, next(given))

    def _append(self, index: int) -> GraphStep:
        layer = self.decoder.layers[index]
        b, s = layer.buffers, layer.plan.sizes
        qk_norm, bias = "q_norm" in b, b.get("qkv_bias")
        kernel = self._kernel(
            rows.compile_append, s.heads, s.own_kv_heads, s.head_dim, s.rope_dim, qk_norm, bias is not None,
            self.decoder.config.architecture.v_norm,
        )  # fmt: skip
        norms = (b.get("q_norm", 0), b.get("k_norm", 0))
        return rows.bind_append(
            kernel, self.qkv(index), self._count, self._turned[layer.plan.rope], self._positions, self._texts,
            self._tables[index], self._eps, norms, 0 if bias is None else bias,
        )  # fmt: skip

    def _head(self, size: int) -> Graph:
        """Over the last pass's rows, whose normed states take the place of what the last layer normed."""
        d, c = self.decoder, self.decoder.config
        self._reserve(size)
        if len(self._logits) < size:
            self._logits, self._heads = _floats(size, -(-c.vocab // rows.LANES) * rows.LANES), {}
        steps = [
            self._norm(d.output_norm, self.normed),
            self._product(size, d.head_packed, self.normed, self._logits),
        ]
        if c.final_softcap:
            kernel = self._kernel(rows.compile_cap, self._logits.shape[1], c.final_softcap)
            steps.append(rows.bind_cap(kernel, self._logits, self._count))
        return Graph(d.pool, steps)

    def _product(self, size: int, packed: Tiles, x: np.ndarray, y: np.ndarray, first: int = 0) -> GraphStep:
        problem = Matmul(packed.rows, packed.cols, packed.format, size)
        config = self._config(problem)
        key = Matmul(1, step_of(formats.get(packed.format).layout), packed.format, 1)
        kernel = self._kernel(matmul.compile, key, config, self._features, packed.lanes)
        buffers = {"x": x, "y": y, "count": self._count, "scratch": self._scratch}
        return matmul.bind(problem, config, kernel, (packed,), buffers, first)

    def _config(self, problem: Matmul) -> Config:
        return self._configs.get(problem) or registry.cpu_space(problem, self._features).default

    def _kernel(self, compile, *arguments) -> Kernel:
        key = (compile, *arguments)
        if key not in self._kernels:
            self._kernels[key] = compile(*arguments)
        return self._kernels[key]

    def _reserve(self, size: int) -> None:
        """Scratch memory that the products and the attention of a pass need. Graphs keep what they were bound to."""
        threads, layers = self.decoder.pool.threads, self.decoder.layers
        matrices = {(p.rows, p.cols, p.format, p.lanes) for p in _packed(self.decoder)}
        most = 0
        for r, cols, form, lanes in matrices:
            problem = Matmul(r, cols, form, size)
            most = max(most, matmul.scratch_bytes(problem, self._config(problem), lanes))
        if len(self._scratch) < threads * most:
            self._scratch = memory.empty((threads * most,), np.uint8)
        shapes = {self._attention(layer) for layer in layers}
        wanted = [row_attention.scratch(shape, self._features, threads) for shape in shapes]
        self._attending = max([self._attending, *wanted], key=len)


def _packed(decoder: Decoder) -> list[Tiles]:
    """Every matrix."""
    layers = (p for layer in decoder.layers for own in layer.packed.values() for p in own)
    return [*layers, *decoder.inputs_packed, decoder.head_packed]


def _narrowed(buffer: np.ndarray, columns: int) -> np.ndarray:
    """[most, columns] at the beginning of what has room for the largest layer."""
    return buffer.reshape(-1)[: len(buffer) * columns].reshape(-1, columns)


def _floats(count: int, size: int) -> np.ndarray:
    return memory.empty((count, size), np.float32)
