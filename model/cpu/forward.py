"""Rows through a model on the CPU: a row is one token of one text, and all rows of a pass share each product.

A prompt is a pass over many rows of one text, speculation one over a few, several texts one with a row of each. What
the rows are is data: a graph of native kernels is bound once for each size of pass, and replayed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from kernel_templates import memory
from kernel_templates.cpu import embedding, row_attention, rows
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.graph import Step as GraphStep
from kernel_templates.cpu.row_attention import RowAttention
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.gated_delta import cpu as gated_delta
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.layer.chain import DELTA
from kernel_templates.matmul.problem import Matmul
from kernel_templates.moe.problem import Moe
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model import layer_plan, widths
from model.cpu import mixture_rows
from model.cpu.decode import Decoder
from model.cpu.mixture_rows import MixtureRows
from model.cpu.row_operations import RowOperations
from model.layer_plan import LayerState

MOST = widths.MOST["cpu"]
"""Rows of a pass."""
TEXTS = 1025
"""Texts that may have a cache at once."""
OWN = 0
"""The text whose cache is the decoder's."""
Caches = Sequence[Mapping[str, np.ndarray]]
"""What each layer keeps of a text, as of `text_state`."""


def bucket(count: int) -> int:
    """The size of pass that so many rows run as: the next power of two."""
    return 1 << (count - 1).bit_length()


def products(decoder: Decoder) -> list[Problem]:
    """The problem of every product, in passes of each size."""
    sizes = [1 << bit for bit in range(MOST.bit_length())]
    return list(dict.fromkeys(problem for size in sizes for problem, _ in _products(decoder, size)))


def _products(decoder: Decoder, size: int) -> Iterator[tuple[Matmul | GroupedMatmul, Tiles]]:
    """Those of a pass, with their matrices."""
    for layer, needed in zip(decoder.layers, decoder.needed, strict=True):
        for name, packed in layer.packed.items():
            if isinstance(mixture := needed[name], Moe):
                yield from mixture_rows.products(mixture, layer, size)
                packed = (packed[0], *packed[4:])  # the router and the shared expert
            yield from ((Matmul(p.rows, p.cols, p.format, size), p) for p in packed)
    for p in (*decoder.inputs_packed, decoder.head_packed):
        yield Matmul(p.rows, p.cols, p.format, size), p


class Forward(RowOperations):
    """Passes over the rows of some texts, each with its own cache, through a decoder's weights."""

    def __init__(
        self, decoder: Decoder, configs: Mapping[Problem, Config] = MappingProxyType({}), texts: int = TEXTS,
        most: int = MOST,
    ):  # fmt: skip
        """configs: of products, where they have winners; texts: that may have a cache at once; most: rows of a pass."""
        c = decoder.config
        super().__init__(c.hidden, c.norm_eps, most, configs)
        self.decoder = decoder
        self._caches: dict[int, Caches] = {}
        self._tables = [np.zeros((texts, len(_described(layer.buffers))), np.int64) for layer in decoder.layers]
        self._unused = list(reversed(range(OWN + 1, texts)))
        self.place(OWN, [layer.buffers for layer in decoder.layers])
        self._tokens, self._positions, self._texts = (np.zeros(most, np.int64) for _ in range(3))
        self._span_count, self._text_count = (np.zeros(1, np.int64) for _ in range(2))
        self._spans, self._whole = (np.zeros((most, row_attention.SPAN), np.int64) for _ in range(2))
        self._turned = {rope: _floats(most, rope.dim) for rope in decoder.plan.ropes}
        largest = layer_plan.buffer_sizes(c)
        self._qkv, self._attended, self._projected = (
            _floats(most, largest[name]) for name in ("qkv", "attended", "projected")
        )
        self._gate, self._up = (_floats(most, largest["gated"]) for _ in range(2))
        self._inputs, self._mixed = (_floats(most, largest.get("layer_inputs", 0)) for _ in range(2))
        self._gated_input = _floats(most, c.layer_input)
        self._attending = memory.empty((0,), np.uint8)
        self._remembering = memory.empty((0,), np.uint8)
        mixtures = [p for needed in decoder.needed for p in needed.values() if isinstance(p, Moe)]
        self._mixture = MixtureRows(self, mixtures) if mixtures else None
        self._graphs: dict[int, Graph] = {}
        self._ends: dict[int, list[int]] = {}  # of each layer among a graph's steps
        self._heads: dict[int, Graph] = {}
        self._logits = _floats(0, 1)

    def place(self, text: int, caches: Caches) -> None:
        """Give a text its cache, from the next pass on."""
        self._caches[text] = caches
        for table, cached in zip(self._tables, caches, strict=True):
            table[text] = _described(cached)

    def admit(self, caches: Caches) -> int | None:
        """A text's number, which no other has until it is dismissed; None while all are given."""
        if not self._unused:
            return None
        text = self._unused.pop()
        self.place(text, caches)
        return text

    def dismiss(self, text: int) -> None:
        """Forget a text's cache."""
        del self._caches[text]
        for table in self._tables:
            table[text] = 0
        self._unused.append(text)

    def run(
        self, tokens: Sequence[int], positions: Sequence[int], texts: Sequence[int], threads: int | Callable[[], int]
    ) -> np.ndarray:
        """One pass: rows of a text are neighbours at consecutive positions. float32 [rows, hidden], what the last layer
        gave, valid until the next pass. threads: of all layers, or asked for before each."""
        self.prepare(tokens, positions, texts)
        if texts[-1] == OWN:
            self.decoder.takes_in(positions[0], positions[-1] + 1)
        size = bucket(len(tokens))
        graph = self._graph(size)
        if isinstance(threads, int):
            graph.replay(threads)
        else:
            for first, end in pairwise((0, *self._ends[size])):
                graph.replay(threads(), first, end)
        return self.x[: len(tokens)]

    def warm_up(self) -> None:
        """Make the graph of the largest passes, which compiles kernels that no process here has compiled before."""
        self._graph(bucket(self.most))

    def run_alone(self, layer: int, operation: str, threads: int) -> None:
        """One operation of one layer on what the buffers hold, for the rows that were prepared."""
        size = bucket(int(self.count[0]))
        self._reserve(size)
        Graph(self.decoder.pool, self._layer(size, layer)[operation]).replay(threads)

    def prepare(self, tokens: Sequence[int], positions: Sequence[int], texts: Sequence[int]) -> None:
        """Set what the rows of a pass are."""
        count = len(tokens)
        self.count[0] = count
        self._tokens[:count], self._positions[:count], self._texts[:count] = tokens, positions, texts
        self._cut()
        for rope, rotation in self.decoder.rotations.items():
            self._turned[rope][:count] = rotation.table(self._positions[:count])

    def logits(self, threads: int) -> np.ndarray:
        """float32 [rows, vocab] of all rows of the last pass, valid until the next call."""
        count = int(self.count[0])
        size = bucket(count)
        if size not in self._heads:
            self._heads[size] = self._head(size)
        self._heads[size].replay(threads)
        return self._logits[:count, : self.decoder.config.vocab]

    def _cut(self) -> None:
        """Into spans: rows of one text, as many as attention takes together, and all of them."""
        longest = min((self._attention(layer).span for layer in self._attending_layers), default=self.most)
        self._span_count[0] = self._spans_of(longest, self._spans)
        self._text_count[0] = self._spans_of(self.most, self._whole)

    def _spans_of(self, longest: int, spans: np.ndarray) -> int:
        """Fill `spans` with at most `longest` rows each; how many there are."""
        count, texts, made, first = int(self.count[0]), self._texts, 0, 0
        while first < count:
            end = first + 1
            while end < min(count, first + longest) and texts[end] == texts[first]:
                end += 1
            spans[made] = first, end - first, texts[first]
            first, made = end, made + 1
        return made

    @property
    def _attending_layers(self) -> list[LayerState]:
        return [layer for layer in self.decoder.layers if layer.plan.sizes.delta is None]

    def _graph(self, size: int) -> Graph:
        if size not in self._graphs:
            self._graphs[size] = self._bound(size)
        return self._graphs[size]

    def _bound(self, size: int) -> Graph:
        d = self.decoder
        self._reserve(size)
        steps = []
        for table, out in zip(d.embeddings, (self.x, self._inputs), strict=False):
            kernel = self.kernel(embedding.compile_rows, table.format, table.cols, table.scale)
            steps.append(embedding.bind_rows(kernel, table.raw, self._tokens, out, self.count))
        steps += self._layer_inputs(size)
        ends = self._ends[size] = []
        for layer in range(d.config.layers):
            for made in self._layer(size, layer).values():
                steps += made
            ends.append(len(steps))
        return Graph(d.pool, steps)

    def qkv(self, layer: int) -> np.ndarray:
        """float32 [most, rows of queries, keys and values] of a layer."""
        return _narrowed(self._qkv, self.decoder.config.layer(layer).qkv_rows)

    def attended(self, layer: int) -> np.ndarray:
        """float32 [most, heads * head_dim] of a layer."""
        return _narrowed(self._attended, self.decoder.config.layer(layer).attended)

    def projected(self, layer: int) -> np.ndarray:
        """float32 [most, projected_size] of a gated delta net."""
        delta = self.decoder.config.layer(layer).delta
        assert delta is not None
        return _narrowed(self._projected, delta.projected_size)

    def _layer(self, size: int, index: int) -> dict[str, list[GraphStep]]:
        """By the names of its operations (`layer.chain`), in their order."""
        made = {
            "qkv": self._project,
            "attention": self._attend,
            "qkvz": self._project_delta,
            "delta": self._delta,
            "out": self._out,
            "ffn": self._ffn,
            "moe": self._moe,
            "input": self._input,
        }
        return {step.name: made[step.name](size, index) for step in self.decoder.layers[index].plan.steps}

    def _project(self, size: int, index: int) -> list[GraphStep]:
        packed = self.decoder.layers[index].packed["qkv"]
        return [*self._stacked(size, index, packed, self.qkv(index)), self._append(index)]

    def _project_delta(self, size: int, index: int) -> list[GraphStep]:
        return self._stacked(size, index, self.decoder.layers[index].packed["qkvz"], self.projected(index))

    def _stacked(self, size: int, index: int, packed: Sequence[Tiles], out: np.ndarray) -> list[GraphStep]:
        """The mixer's norm, and products with it, one behind the other in rows of `out`."""
        steps, first = [self.norm(self.decoder.layers[index].buffers["attn_norm"])], 0
        for matrix in packed:
            steps.append(self.product(size, matrix, self.normed, out, first))
            first += matrix.rows
        return steps

    def _attend(self, size: int, index: int) -> list[GraphStep]:
        s, qkv, attended = self.decoder.config.layer(index), self.qkv(index), self.attended(index)
        kernel = self.kernel(row_attention.compile, self._attention(self.decoder.layers[index]), self.features)
        step = row_attention.bind(
            kernel, qkv, attended, self._positions, self._tables[index], self._spans, self._span_count, self._attending,
            self.decoder.layers[index].buffers.get("sinks"),
        )  # fmt: skip
        if not s.output_gate:
            return [step]
        kernel = self.kernel(rows.compile_output_gate, s.heads, s.head_dim, s.qkv_rows)
        return [step, rows.bind_output_gate(kernel, qkv, attended, self.count)]

    def _delta(self, size: int, index: int) -> list[GraphStep]:
        """All rows of a text in turn: `size` is that of the pass."""
        d, layer = self.decoder, self.decoder.layers[index]
        buffers = {
            **DELTA.bound(layer.buffers), "projected": self.projected(index),
            "out": self.attended(index), "eps": self.eps, "scratch": self._remembering,
        }  # fmt: skip
        places = (self._positions, self._tables[index], self._whole, self._text_count)
        return [gated_delta.bind_rows(d.kernel(d.needed[index]["delta"]), buffers, *places)]

    def _out(self, size: int, index: int) -> list[GraphStep]:
        layer = self.decoder.layers[index]
        (out,) = layer.packed["out"]
        return [
            self.product(size, out, self.attended(index), self.branch),
            self.add(layer.buffers.get("post_attn_norm"), layer.buffers.get("out_bias")),
        ]

    def _ffn(self, size: int, index: int) -> list[GraphStep]:
        layer = self.decoder.layers[index]
        b, s, (gate, up, down) = layer.buffers, layer.plan.sizes, layer.packed["ffn"]
        gate_rows, up_rows = _narrowed(self._gate, s.ffn), _narrowed(self._up, s.ffn)
        gated = self.kernel(rows.compile_gate, s.ffn, s.gate_function)
        return [
            self.norm(b["ffn_norm"]),
            self.product(size, gate, self.normed, gate_rows),
            self.product(size, up, self.normed, up_rows),
            rows.bind_gate(gated, gate_rows, up_rows, self.count),
            self.product(size, down, gate_rows, self.branch),
            self.add(b.get("post_ffn_norm"), scale=self._scale_of(layer)),
        ]

    def _input(self, size: int, index: int) -> list[GraphStep]:
        layer, c, gated = self.decoder.layers[index], self.decoder.config, self._gated_input
        b, (gate, proj) = layer.buffers, layer.packed["input"]
        kernel = self.kernel(rows.compile_gate_input, c.layer_input, self._inputs.shape[1])
        return [
            self.product(size, gate, self.x, gated),
            rows.bind_gate_input(kernel, gated, self._inputs, self.count, index * c.layer_input),
            self.product(size, proj, gated, self.branch),
            self.add(b["post_input_norm"], scale=b.get("out_scale")),
        ]

    def _layer_inputs(self, size: int) -> list[GraphStep]:
        """What each layer gets of each row, but for what their embedding has of it."""
        d, c = self.decoder, self.decoder.config
        if not c.layer_input:
            return []
        (w,) = d.inputs_packed
        kernel = self.kernel(rows.compile_mix_inputs, c.hidden, c.layers, c.layer_input)
        return [
            self.product(size, w, self.x, self._mixed),
            rows.bind_mix_inputs(kernel, self._mixed, d.input_norm, self._inputs, self.count, self.eps),
        ]

    def _moe(self, size: int, index: int) -> list[GraphStep]:
        layer, problem = self.decoder.layers[index], self.decoder.needed[index]["moe"]
        assert isinstance(problem, Moe) and self._mixture is not None
        return [
            *self._mixture.steps(problem, size, layer),
            self.add(layer.buffers.get("post_ffn_norm"), scale=self._scale_of(layer)),
        ]

    def _scale_of(self, layer: LayerState) -> np.ndarray | None:
        """What the stream is multiplied with behind the feed-forward half, unless an input of the layer follows."""
        return None if layer.plan.sizes.layer_input else layer.buffers.get("out_scale")

    def _attention(self, layer: LayerState) -> RowAttention:
        s = layer.plan.sizes
        scale = s.scale or s.head_dim**-0.5
        return RowAttention(
            s.heads, s.kv_heads, s.head_dim, scale, s.window, s.softcap, s.sinks, output_gate=s.output_gate
        )

    def _append(self, index: int) -> GraphStep:
        layer = self.decoder.layers[index]
        b, s = layer.buffers, layer.plan.sizes
        qk_norm, bias = "q_norm" in b, b.get("qkv_bias")
        kernel = self.kernel(
            rows.compile_append, s.heads, s.own_kv_heads, s.head_dim, s.rope_dim, qk_norm, bias is not None,
            s.query_size, self.decoder.config.architecture.v_norm,
        )  # fmt: skip
        norms = (b.get("q_norm", 0), b.get("k_norm", 0))
        return rows.bind_append(
            kernel, self.qkv(index), self.count, self._turned[layer.plan.rope], self._positions, self._texts,
            self._tables[index], self.eps, norms, 0 if bias is None else bias,
        )  # fmt: skip

    def _head(self, size: int) -> Graph:
        """Over the last pass's rows, whose normed states take the place of what the last layer normed."""
        d, c = self.decoder, self.decoder.config
        self._reserve(size)
        if len(self._logits) < size:
            self._logits, self._heads = _floats(size, -(-c.vocab // rows.LANES) * rows.LANES), {}
        steps = [
            self.norm(d.output_norm),
            self.product(size, d.head_packed, self.normed, self._logits),
        ]
        if c.final_softcap:
            kernel = self.kernel(rows.compile_cap, self._logits.shape[1], c.final_softcap)
            steps.append(rows.bind_cap(kernel, self._logits, self.count))
        return Graph(d.pool, steps)

    def _reserve(self, size: int) -> None:
        """Scratch memory that the products and the mixers of a pass need. Graphs keep what they were bound to."""
        threads, layers = self.decoder.pool.threads, self.decoder.layers
        self.reserve(threads, _products(self.decoder, size))
        shapes = {self._attention(layer) for layer in self._attending_layers}
        wanted = [row_attention.scratch(shape, self.features, threads) for shape in shapes]
        self._attending = max([self._attending, *wanted], key=len)
        nets = [layer.plan.sizes.delta for layer in layers if layer.plan.sizes.delta]
        needed = threads * max((gated_delta.scratch_bytes(net) for net in nets), default=0)
        if len(self._remembering) < needed:
            self._remembering = memory.empty((needed,), np.uint8)


def _described(kept: Mapping[str, np.ndarray]) -> Sequence[int]:
    """What a layer keeps of a text, as its rows find it."""
    if "state" in kept:
        return gated_delta.described(kept["conv_state"], kept["state"])
    return rows.described(kept["keys"], kept["values"])


def _narrowed(buffer: np.ndarray, columns: int) -> np.ndarray:
    """[most, columns] at the beginning of what has room for the largest layer."""
    assert columns <= buffer.shape[1]
    return buffer.reshape(-1)[: len(buffer) * columns].reshape(-1, columns)


def _floats(count: int, size: int) -> np.ndarray:
    return memory.empty((count, size), np.float32)
