"""Texts whose keys and values lie in scattered pages, and what attention over many rows makes of them in float64."""

import numpy as np
import torch

from kernel_templates import float64
from kernel_templates.attention import reference as attention
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.paged_attention import cuda, reference
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.paged_attention.space import FEW, REGISTERS, TILES
from kernel_templates.verify import verify

LAYERS, CONTEXT = 2, 256


def config(rows=16, tile=32, warps=1, splits=1, edges="alike", stages=1, combine="last"):
    sizes = {"algorithm": TILES, "rows": rows, "tile": tile, "warps": warps, "stages": stages}
    return {**sizes, "splits": splits, "edges": edges, "combine": combine}


def few(tile=32, warps=2, splits=1, combine="last"):
    """Keys and values in registers."""
    return config(FEW, tile, warps, splits, combine=combine) | {"algorithm": REGISTERS}


class Texts:
    """Random queries of texts whose last row stands at `ends`, over a cache of two layers whose pages are scattered.

    All that no row may count is NaN: positions after a text's last row and before its first row's window, pages that
    no text uses, the other layer. Table entries of no use point at a page of NaN."""

    def __init__(self, ends, tokens=1, heads=2, kv_heads=1, head_dim=16, page=64, seed=0, q_scale=1.0, **traits):
        rng = np.random.default_rng(seed)
        self.problem = p = PagedAttention(len(ends), tokens, heads, kv_heads, head_dim, CONTEXT, **traits)
        self.positions = np.array([[end - tokens + 1 + t for t in range(tokens)] for end in ends], np.int32)
        pages = CONTEXT // page + 1
        cache = np.full((len(ends) * pages + 3, LAYERS, 2, kv_heads, page, head_dim), np.nan, np.float16)
        slots = rng.permutation(len(cache))[: len(ends) * pages].reshape(len(ends), pages)
        unused = np.setdiff1d(np.arange(len(cache)), slots)[0]
        self.order = rng.permutation(len(ends))  # of texts in the table
        self.kv = []
        for text, end in zip(self.order, ends, strict=True):
            first = max(end - tokens + 2 - p.window, 0) if p.window else 0
            kv = rng.standard_normal((2, kv_heads, end + 1, head_dim)).astype(np.float16)
            for position in range(first, end + 1):
                cache[slots[text, position // page], 1, :, :, position % page] = kv[:, :, position]
            slots[text, end // page + 1 :] = unused
            self.kv.append(kv)
        stride = cache.strides[0] // 2
        tensor = torch.from_numpy(cache)
        layer, values, head = tensor.stride()[1:4]
        # Offsets count from a page in the middle: entries may be negative.
        base = tensor.reshape(-1)[2 * stride :]
        table = torch.from_numpy((slots - 2) * stride)
        self.whole = tensor
        self.paged = PagedCache(base, table, layer, values, head, page)
        q = rng.standard_normal((p.rows, heads, head_dim)) * q_scale
        self.q = torch.from_numpy(q.astype(np.float16))
        self.sinks = torch.from_numpy(attention.sinks(heads, max(ends) + 1, rng)[:heads].copy())

    def expected(self):
        """float64 [rows, heads, head_dim], row after row."""
        p, out = self.problem, np.zeros((self.problem.rows, self.problem.heads, self.problem.head_dim))
        for row in range(p.rows):
            text, position = row // p.tokens, self.positions.ravel()[row]
            first = max(position + 1 - p.window, 0) if p.window else 0
            for head in range(p.heads if position >= 0 else 0):
                k, v = self.kv[text][:, head // p.group, first : position + 1].astype(np.float64)
                s = float64.soft_cap(k @ self.q[row, head].double().numpy() * p.score_scale, p.softcap)
                largest = max(s.max(), float(self.sinks[head])) if p.sinks else s.max()
                w = np.exp(s - largest)
                out[row, head] = w @ v / (w.sum() + (np.exp(float(self.sinks[head]) - largest) if p.sinks else 0))
        return out

    def buffers(self):
        """What `cuda.launches` reads and writes."""
        p = self.problem
        texts = np.repeat(self.order, p.tokens).astype(np.int32)
        return {
            "q": self.q, "positions": torch.from_numpy(self.positions.ravel().copy()), "paged": self.paged,
            "sequences": torch.from_numpy(texts), "sinks": self.sinks,
            "out": torch.full((p.rows, p.heads * p.head_dim), float("nan"), dtype=torch.float16),
        }  # fmt: skip

    def run(self, chosen, **more):
        """Run and compare; the outputs of rows that are used, [rows, heads, head_dim]. more: further buffers."""
        p, buffers = self.problem, self.buffers() | more
        for launch in cuda.launches(p, chosen, (), buffers):
            launch.run(INTERPRETED)
        out = buffers["out"].double().numpy().reshape(p.rows, p.heads, -1)
        assert np.isfinite(out).all()
        used, expected = self.positions.ravel() >= 0, self.expected()
        if used.any():
            verify({"out": out[used]}, {"out": expected[used]}, reference.tolerance(p))
        return out[used]
