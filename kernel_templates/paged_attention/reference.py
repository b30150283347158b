"""What attention over many rows must give, in float64."""

from collections.abc import Iterator

import numpy as np

from kernel_templates import float64
from kernel_templates.attention import cache
from kernel_templates.attention import reference as attention
from kernel_templates.lazy import torch
from kernel_templates.operation import Inputs
from kernel_templates.paged_attention.problem import PagedAttention

PAGE = 64  # positions of a page in these inputs, as in the caches of models
DISTINCT = 61  # pages with content of their own; the others repeat it, so that inputs of many texts stay small
_AT_ONCE = 1 << 22  # scores


def inputs(problem: PagedAttention, seed: int) -> Inputs:
    """Buffers: q float16 [rows, heads, head_dim]; positions, sequences int32 [rows]; slots int64 [texts, pages], where
    each page of a text lies, in no order; keys, values [DISTINCT or fewer, kv_heads, PAGE, head_dim], as of
    `cache.stored`, what lies in slot i at i % DISTINCT; out float16 [rows, heads * head_dim]; with sinks, sinks float32
    [heads].

    q is such that scores have a standard deviation of 1 whatever their scale, so that every position counts; of 2 with
    a soft cap, so that a kernel without it is wrong by a percent. Texts do not stand in the table in their own order.
    """
    rng = np.random.default_rng(seed)
    pages = -(-max(problem.last_positions, default=0) // PAGE) + 1
    count = problem.sequences * pages
    shape = (min(count, DISTINCT), problem.kv_heads, PAGE, problem.head_dim)
    drawn = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for _ in range(2))
    keys, values = (cache.stored(x, problem.cache).numpy() for x in drawn)
    q = rng.standard_normal((problem.rows, problem.heads, problem.head_dim), np.float32)
    q *= np.float32((2 if problem.softcap else 1) / (problem.score_scale * problem.head_dim**0.5))
    last = np.array(problem.last_positions, np.int32)
    texts = rng.permutation(problem.sequences).astype(np.int32)
    sinks = {"sinks": attention.sinks(problem.heads, problem.reach, rng)} if problem.sinks else {}
    return Inputs(
        {},
        sinks
        | {
            "q": q.astype(np.float16),
            "positions": (last[:, None] - np.arange(problem.tokens, dtype=np.int32)[::-1]).ravel(),
            "sequences": np.repeat(texts, problem.tokens),
            "slots": rng.permutation(count).reshape(problem.sequences, pages),
            "keys": keys,
            "values": values,
            "out": np.zeros((problem.rows, problem.heads * problem.head_dim), np.float16),
        },
    )


def outputs(problem: PagedAttention, given: Inputs) -> dict[str, np.ndarray]:
    """ "out" float64 [rows, heads * head_dim]; zeros for rows at a negative position. A buffer "position", int64 [1],
    stands for the positions of all rows."""
    b, dim = given.buffers, problem.head_dim
    positions = np.broadcast_to(b["position"], problem.rows) if "position" in b else b["positions"]
    out = np.zeros((problem.rows, problem.kv_heads, problem.group, dim))
    q = b["q"].reshape(problem.rows, problem.kv_heads, problem.group, dim)
    for text in np.unique(b["sequences"]):
        of_text = np.flatnonzero((b["sequences"] == text) & (positions >= 0))
        if not of_text.size:
            continue
        last = int(positions[of_text].max())
        first = max(int(positions[of_text].min()) + 1 - problem.window, 0) if problem.window else 0
        for rows in _some(of_text, problem.group * (last + 1 - first)):
            at = positions[rows].astype(np.int64)
            for kv in range(problem.kv_heads):
                k, v = (_cached(b[name], b["slots"][text], kv, first, last + 1) for name in ("keys", "values"))
                mine = torch.from_numpy(q[rows, kv].astype(np.float64)).transpose(0, 1)
                scores = (mine @ k.T * problem.score_scale).numpy()
                scores = float64.soft_cap(scores, problem.softcap)
                seen = np.arange(first, last + 1)[None] <= at[:, None]
                if problem.window:
                    seen &= np.arange(first, last + 1)[None] > at[:, None] - problem.window
                scores = np.where(seen, scores, -np.inf)
                if problem.sinks:
                    own = b["sinks"][kv * problem.group : (kv + 1) * problem.group].astype(np.float64)
                    scores = np.concatenate([scores, np.broadcast_to(own[:, None, None], (*scores.shape[:2], 1))], -1)
                weights = torch.from_numpy(scores).softmax(-1)[..., : last + 1 - first]
                out[rows, kv] = (weights @ v).transpose(0, 1).numpy()
    return {"out": out.reshape(problem.rows, -1)}


def tolerance(problem: PagedAttention) -> float:
    """Weights of the values, and outputs, are rounded to float16: 2^-11 each at most, 0.6 of that in the mean. The
    reference reads the same float16 queries, keys and values; all else is float32."""
    return 1e-3


def _some(rows: np.ndarray, scores: int) -> Iterator[np.ndarray]:
    """Rows with `scores` scores each, as many at once as memory is asked for."""
    step = max(1, _AT_ONCE // scores)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _cached(content: np.ndarray, slots: np.ndarray, kv: int, first: int, end: int):
    """float64 [end - first, head_dim]: the keys or values of a text."""
    pages = slots[first // PAGE : -(-end // PAGE)] % DISTINCT
    found = content[pages, kv].reshape(-1, content.shape[-1])
    skipped = first // PAGE * PAGE
    return torch.from_numpy(found[first - skipped : end - skipped].astype(np.float64))
