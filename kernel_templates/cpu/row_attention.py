"""Causal attention of many rows on the CPU, in spans of neighbouring tokens of one text.

    out = softmax(s) v,  s = scale q k, or softcap tanh(scale q k / softcap), over the window's positions up to a row's,
    with a sink of each head: one score more, which has no value

A thread takes a span and a key head: the queries of all heads that share it pass by tiles of 64 cached positions, each
decoded once into float32, with a running softmax (Milakov and Gimelshein 2018). Both products are `micro.py`'s.
"""

from dataclasses import dataclass

import numpy as np

from kernel_templates import memory
from kernel_templates.attention.cache import TILE
from kernel_templates.cpu import micro, simd
from kernel_templates.cpu.activations import BLOCK, exponential, soft_cap
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.many_rows import RowLayout
from kernel_templates.cpu.micro import MicroShape, multiply, register_lanes
from kernel_templates.cpu.rows import CACHE
from kernel_templates.cpu.simd import load_f32, load_i64, store_f32

LOWEST = np.float32(-3.0e38)
QUERIES = 192
"""Most rows of queries in a span: their scores, values and themselves stay in a core's own cache."""
SPAN = 3
"""int64 of a span: its first row, how many rows, their text."""


@dataclass(frozen=True)
class RowAttention:
    """Shapes and traits of `attention.problem.Attention`; scale: of the scores, never 0."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: int = 0
    output_gate: bool = False

    @property
    def query_size(self) -> int:
        """Elements from one query to the next: a gate may lie between them, which is another kernel's."""
        return self.head_dim * (1 + self.output_gate)

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def span(self) -> int:
        """Tokens of a span at most."""
        return max(1, min(TILE, QUERIES // self.group))


def _sizes(shape: RowAttention, together: int) -> tuple[int, list[int]]:
    """Padded rows of queries; byte offsets of queries, scores, sums, softmaxes, keys, values, and the end."""
    padded = -(-shape.span * shape.group // together) * together
    record = RowLayout(-(-shape.head_dim // BLOCK) * BLOCK, "f32")
    sizes = [
        padded * record.bytes, padded * 4 * TILE, padded * 4 * shape.head_dim, padded * 8,
        4 * TILE * record.cols, 4 * TILE * shape.head_dim,
    ]  # fmt: skip
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // 64) * 64)
    return padded, places


def _together(features: frozenset[str]) -> int:
    return 6 if register_lanes("", features) == 16 else 3


def compile(shape: RowAttention, features: frozenset[str]) -> Kernel:
    dim, group, kv_heads, heads = shape.head_dim, shape.group, shape.kv_heads, shape.heads
    has_sinks = shape.sinks == 1
    window, softcap, scale, together = shape.window, shape.softcap, np.float32(shape.scale), _together(features)
    padded_dim = -(-dim // BLOCK) * BLOCK
    query, score = RowLayout(padded_dim, "f32"), RowLayout(TILE, "f32")
    wide = 32 if together == 6 else 16
    value_width = wide if dim % wide == 0 else 16
    _, places = _sizes(shape, together)
    per_thread = places[-1]
    scores_at, sums_at, states_at, keys_at, values_at = places[1:6]
    record, score_record, query_bytes = query.bytes, score.bytes, 4 * shape.query_size
    load, splat, capped, exp = (
        simd.load("f32", TILE),
        simd.splat("f32", TILE),
        soft_cap(softcap or 1.0, TILE),
        exponential(TILE),
    )
    load_half, load_value = simd.load("f16", wide), simd.load("f16", value_width)
    load16, splat16, exp16 = simd.load("f32", 16), simd.splat("f32", 16), exponential(16)
    parts, value_parts, dim_blocks = TILE // wide, dim // value_width, padded_dim // BLOCK

    def attend_rows(arguments, sync, thread, threads):
        q, stride, out = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16)
        positions, caches = load_i64(arguments + 24), load_i64(arguments + 32)
        spans, count = load_i64(arguments + 40), load_i64(load_i64(arguments + 48))
        own = load_i64(arguments + 56) + thread * per_thread
        scores, sums, states = own + scores_at, own + sums_at, own + states_at
        panel, value_panel = own + keys_at, own + values_at
        dots, weigh, sinks = load_i64(arguments + 64), load_i64(arguments + 72), load_i64(arguments + 80)
        # A range whose step is not known could raise, by functions of Python's that a kernel from the cache lacks.
        for turn in range((count * kv_heads - thread + threads - 1) // threads):
            item = thread + turn * threads
            span, kv = spans + 24 * (item // kv_heads), item % kv_heads
            row, tokens, cache = load_i64(span), load_i64(span + 8), caches + CACHE * load_i64(span + 16)
            tiles = load_i64(cache + 16)
            keys = load_i64(cache) + 2 * kv * tiles * dim * TILE
            values = load_i64(cache + 8) + 2 * kv * tiles * TILE * dim
            start = load_i64(positions + 8 * row)
            queries = tokens * group
            for i in range(queries):
                at = q + stride * (row + i // group) + query_bytes * (kv * group + i % group)
                for d in range(0, dim, 16):
                    simd.store(own + record * i + 4 * d, load16(at + 4 * d) * splat16(scale))
                    simd.store(sums + 4 * (dim * i + d), splat16(np.float32(0.0)))
                if padded_dim > dim:
                    simd.store(own + record * i + 4 * dim, splat16(np.float32(0.0)))
                # A softmax begins with the head's sink, or with nothing.
                store_f32(states + 8 * i, load_f32(sinks + 4 * (kv * group + i % group)) if has_sinks else LOWEST)
                store_f32(states + 8 * i + 4, np.float32(1.0 if has_sinks else 0.0))
            last = start + tokens - 1
            oldest = max(start + 1 - window, 0) if window else 0
            for tile in range(oldest // TILE, last // TILE + 1):
                base = tile * TILE
                for part in range(parts):
                    for d in range(dim):
                        half = load_half(keys + 2 * ((tile * dim + d) * TILE + wide * part))
                        simd.store(panel + 4 * wide * (part * padded_dim + d), simd.to_f32(half))
                    for d in range(dim, padded_dim):
                        simd.store(panel + 4 * wide * (part * padded_dim + d), simd.to_f32(load_half(keys)))
                for part in range(value_parts):
                    for i in range(TILE):
                        half = load_value(values + 2 * ((base + i) * dim + value_width * part))
                        simd.store(value_panel + 4 * value_width * (part * TILE + i), simd.to_f32(half))
                for part in range(parts):
                    for i in range(0, queries, together):
                        to = scores + score_record * i + 4 * wide * part
                        some = panel + 4 * wide * padded_dim * part
                        multiply(dots, (some, 0, own + record * i, record, 0, 0, 0, dim_blocks, to, score_record, 0))
                for i in range(queries):
                    limit = start + i // group
                    visible = min(limit + 1 - base, TILE)
                    hidden = max(limit + 1 - window - base, 0) if window else 0
                    at = scores + score_record * i
                    if visible <= hidden:
                        simd.store(at, splat(np.float32(0.0)))
                        continue
                    s = load(at)
                    if softcap:
                        s = capped(s)
                    if visible < TILE:
                        s = simd.keep_first(s, visible, LOWEST)
                    if hidden > 0:
                        s = simd.minimum(s, simd.keep_first(splat(LOWEST), hidden, -LOWEST))
                    before = load_f32(states + 8 * i)
                    largest = max(before, simd.max_f32(s))
                    e = exp(s - splat(largest))
                    if visible < TILE:
                        e = simd.keep_first(e, visible, np.float32(0.0))
                    simd.store(at, e)
                    factor = np.float32(1.0)
                    if largest > before:
                        factor = simd.max_f32(exp16(splat16(before - largest)))
                        for d in range(0, dim, 16):
                            place = sums + 4 * (dim * i + d)
                            simd.store(place, load16(place) * splat16(factor))
                        store_f32(states + 8 * i, largest)
                    store_f32(states + 8 * i + 4, load_f32(states + 8 * i + 4) * factor + simd.sum_f32(e))
                for part in range(value_parts):
                    for i in range(0, queries, together):
                        to = sums + 4 * (dim * i + value_width * part)
                        some, weights = value_panel + 4 * value_width * TILE * part, scores + score_record * i
                        multiply(weigh, (some, 0, weights, score_record, 0, 0, 0, TILE // BLOCK, to, 4 * dim, 1))
            for i in range(queries):
                to = out + 4 * dim * (heads * (row + i // group) + kv * group + i % group)
                factor = splat16(np.float32(1.0) / load_f32(states + 8 * i + 4))
                for d in range(0, dim, 16):
                    simd.store(to + 4 * d, load16(sums + 4 * (dim * i + d)) * factor)

    loops = (micro.compile(MicroShape("f32", w, together), features) for w in (wide, value_width))
    return compile_kernel(attend_rows, f"attend rows {shape} {together}").with_rows(*loops)


def scratch(shape: RowAttention, features: frozenset[str], threads: int) -> np.ndarray:
    return memory.zeros((threads * _sizes(shape, _together(features))[1][-1],), np.uint8)


def bind(
    kernel: Kernel, q: np.ndarray, out: np.ndarray, positions, caches, spans, count, own: np.ndarray,
    sinks: np.ndarray | None = None,
) -> Step:  # fmt: skip
    """q: float32 [rows, at least heads * query_size]; out: float32 [rows, heads * head_dim]; positions: int64 [rows];
    caches: as of `rows.bind_append`; spans: int64 [spans, SPAN]; count: of them, int64 [1]; own:
    `scratch`; sinks: float32 [heads], where the shape has them."""
    loops = (loop.address for loop in kernel.rows)
    named = (q, 4 * q.shape[1], out, positions, caches, spans, count, own, *loops, 0 if sinks is None else sinks)
    return step(kernel, named, "attention")
