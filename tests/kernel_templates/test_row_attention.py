"""Attention of many rows on the processor against float64: texts of unlike lengths, windows, soft caps, sinks."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kernel_templates import float64
from kernel_templates.attention import cache
from kernel_templates.attention import reference as attention
from kernel_templates.cpu import machine, row_attention, rows
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.row_attention import RowAttention
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.verify import verify

TOLERANCE = 1e-4  # float32 over float16 keys and values that the reference reads too
SHAPES = [
    RowAttention(8, 2, 64, 0.125),
    RowAttention(8, 1, 64, 0.125, sinks=1),
    RowAttention(6, 2, 64, 0.2, window=33, softcap=4.0),
    RowAttention(6, 2, 80, 0.1, window=70, sinks=1),
    RowAttention(4, 4, 48, 0.125, softcap=4.0, sinks=1),
]
ENDS, COUNTS = (0, 63, 64, 200), (1, 5, 1, 90)
"""Of each text: its last position, and how many of its rows are in the pass."""


@pytest.fixture(scope="module")
def team() -> Iterator[ThreadPool]:
    pool = ThreadPool(2)
    yield pool
    pool.close()


class Pass:
    """Rows of texts, each with a cache of its own that holds NaN where no row of it may look."""

    def __init__(self, shape: RowAttention) -> None:
        rng, self.shape = np.random.default_rng(7), shape
        self.q = rng.standard_normal((sum(COUNTS), shape.heads * shape.head_dim), np.float32)
        self.positions = np.concatenate([np.arange(e + 1 - n, e + 1) for e, n in zip(ENDS, COUNTS, strict=True)])
        self.texts = np.repeat(np.arange(len(ENDS)), COUNTS)
        self.sinks = attention.sinks(shape.heads, 60, rng)
        self.kv, self.caches = [], []
        for end, count in zip(ENDS, COUNTS, strict=True):
            k, v = (rng.standard_normal((end + 1, shape.kv_heads, shape.head_dim)).astype(np.float16) for _ in "kv")
            oldest = max(end + 2 - count - shape.window, 0) if shape.window else 0
            filled = cache.allocate(shape.kv_heads, shape.head_dim, 256)
            for content in filled:
                content[:] = np.nan
            # Within a tile what lies before a window is loaded and weighs nothing: values must be numbers there.
            first = oldest // cache.TILE * cache.TILE
            cache.write(*filled, torch.from_numpy(k[first:]), torch.from_numpy(v[first:]), first)
            filled[1][:, end + 1 : -(-(end + 1) // cache.TILE) * cache.TILE] = 0
            self.kv.append((k, v))
            self.caches.append(filled)

    def run(self, team: ThreadPool) -> np.ndarray:
        shape, spans = self.shape, []
        for text, count in enumerate(COUNTS):
            first = int(np.flatnonzero(self.texts == text)[0])
            spans += [(first + i, min(shape.span, count - i), text) for i in range(0, count, shape.span)]
        out = np.full_like(self.q, np.nan)
        kernel = row_attention.compile(shape, machine.features())
        own = row_attention.scratch(shape, machine.features(), team.threads)
        table = np.array([rows.described(*filled) for filled in self.caches], np.int64)
        step = row_attention.bind(
            kernel, self.q, out, self.positions.astype(np.int64), table, np.array(spans, np.int64),
            np.array([len(spans)], np.int64), own, self.sinks if shape.sinks else None,
        )  # fmt: skip
        Graph(team, [step]).replay()
        return out

    def expected(self) -> np.ndarray:
        s, out = self.shape, np.zeros((len(self.q), self.shape.heads, self.shape.head_dim))
        for row, (position, text) in enumerate(zip(self.positions, self.texts, strict=True)):
            seen = slice(max(position + 1 - s.window, 0) if s.window else 0, position + 1)
            for head in range(s.heads):
                k, v = (part[seen, head // s.group].astype(np.float64) for part in self.kv[text])
                q = self.q[row, head * s.head_dim : (head + 1) * s.head_dim].astype(np.float64)
                weights = np.exp(float64.soft_cap(k @ q * s.scale, s.softcap))
                lost = np.exp(float(self.sinks[head])) if s.sinks else 0.0
                out[row, head] = weights @ v / (weights.sum() + lost)
        return out.reshape(len(self.q), -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(shape: RowAttention, team: ThreadPool) -> None:
    given = Pass(shape)
    verify({"out": given.run(team)}, {"out": given.expected()}, TOLERANCE)


def test_a_sink_may_take_all_or_nothing(team: ThreadPool) -> None:
    given, plain = Pass(RowAttention(2, 1, 64, 0.125, sinks=1)), Pass(RowAttention(2, 1, 64, 0.125))
    given.sinks[:2] = 5000.0, -5000.0
    out, without = given.run(team), plain.run(team)
    assert np.abs(out[:, :64]).max() < 1e-30
    assert np.array_equal(out[:, 64:], without[:, 64:])
