"""What decoding attention must give, in float64."""

import numpy as np

from kernel_templates import random_inputs
from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.lazy import torch
from kernel_templates.operation import Inputs


def inputs(problem: Attention, seed: int) -> Inputs:
    """Buffers: q, out float32 [heads * head_dim], keys and values float16 (see `cache`), position int64 [1]."""
    rng = np.random.default_rng(seed)
    keys, values = cache.allocate(problem.kv_heads, problem.head_dim, problem.context)
    shape = (problem.context, problem.kv_heads, problem.head_dim)
    k, v = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for _ in range(2))
    cache.write(keys, values, k, v, 0)
    return Inputs(
        {},
        {
            "q": random_inputs.vector(problem.heads * problem.head_dim, rng),
            "keys": keys,
            "values": values,
            "position": np.array([problem.context - 1], np.int64),
            "out": random_inputs.buffer(problem.heads * problem.head_dim),
        },
    )


def outputs(problem: Attention, given: Inputs) -> dict[str, np.ndarray]:
    count = int(given.buffers["position"][0]) + 1
    k, v = (t.double() for t in cache.read(given.buffers["keys"], given.buffers["values"], count))
    group = problem.heads // problem.kv_heads
    q = torch.from_numpy(given.buffers["q"][: problem.heads * problem.head_dim]).double()
    q = q.reshape(problem.kv_heads, group, problem.head_dim)
    weights = (q @ k.transpose(1, 2) / problem.head_dim**0.5).softmax(-1)
    return {"out": (weights @ v).reshape(-1).numpy()}


def tolerance(problem: Attention) -> float:
    """float32 throughout over float16 keys and values that the reference reads too."""
    return 1e-4
