"""What decoding attention must give, in float64."""

import numpy as np

from kernel_templates import float64, random_inputs
from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.lazy import torch
from kernel_templates.operation import Inputs


def inputs(problem: Attention, seed: int) -> Inputs:
    """Buffers: q float32 [heads * query_size], out float32 [heads * head_dim], keys and values (see
    `cache`), position int64 [1]; with sinks also sinks float32 [heads].

    q is such that scores have a standard deviation of 1 whatever their scale, so that every position counts; of 2 with
    a soft cap, so that a kernel without it is wrong by a percent.
    """
    rng = np.random.default_rng(seed)
    keys, values = cache.allocate(problem.kv_heads, problem.head_dim, problem.context, problem.cache)
    shape = (problem.context, problem.kv_heads, problem.head_dim)
    k, v = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for _ in range(2))
    cache.write(keys, values, k, v, 0)
    q = random_inputs.vector(problem.heads * problem.query_size, rng)
    if problem.scale or problem.softcap:
        q[_queries(problem)] *= np.float32(
            (2 if problem.softcap else 1) / (problem.score_scale * problem.head_dim**0.5)
        )
    buffers = {
        "q": q,
        "keys": keys,
        "values": values,
        "position": np.array([problem.context - 1], np.int64),
        "out": random_inputs.buffer(problem.heads * problem.head_dim),
    }
    if problem.sinks:
        buffers["sinks"] = sinks(problem.heads, problem.reach, rng)
    return Inputs({}, buffers)


def sinks(heads: int, reach: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [heads] whose share of a softmax over `reach` scores is about a half, so that it is seen whether a kernel
    counts them, and how often."""
    made = random_inputs.vector(heads, rng)
    made[:heads] += np.float32(np.log(reach) + 0.5)  # the mean of e^x is e^0.5
    return made


def outputs(problem: Attention, given: Inputs) -> dict[str, np.ndarray]:
    count = int(given.buffers["position"][0]) + 1
    oldest = max(count - problem.window, 0) if problem.window else 0
    k, v = (t.double() for t in cache.read(given.buffers["keys"], given.buffers["values"], count, oldest))
    group = problem.heads // problem.kv_heads
    given_q = given.buffers["q"]
    q = torch.from_numpy(given_q[_queries(problem)]).double()
    q = q.reshape(problem.kv_heads, group, problem.head_dim)
    scores = q @ k.transpose(1, 2) * problem.score_scale
    scores = torch.from_numpy(float64.soft_cap(scores.numpy(), problem.softcap))
    if problem.sinks:
        sink = torch.from_numpy(given.buffers["sinks"][: problem.heads]).double()
        scores = torch.cat([scores, sink.reshape(problem.kv_heads, group, 1)], -1)
        v = torch.cat([v, torch.zeros_like(v[:, :1])], 1)
    out = (scores.softmax(-1) @ v).reshape(problem.heads, -1).numpy()
    if problem.output_gate:
        gates = given_q[: problem.heads * problem.query_size].reshape(problem.heads, 2, problem.head_dim)[:, 1]
        out /= 1 + np.exp(-gates.astype(np.float64))
    return {"out": out.reshape(-1)}


def _queries(problem: Attention) -> np.ndarray:
    """Where q has the elements of all queries: int64 [heads * head_dim]."""
    heads = np.arange(problem.heads)[:, None] * problem.query_size
    return (heads + np.arange(problem.head_dim)).ravel()


def tolerance(problem: Attention) -> float:
    """float32 throughout over keys and values that the reference reads too; tensor cores take queries and weights in
    float16, whose rounding is far below that of an 8-bit cache."""
    return 1e-4 if problem.cache == cache.F16 else 1e-3
