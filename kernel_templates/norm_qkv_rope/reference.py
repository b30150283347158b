"""What a layer's first kernel must give, in float64."""

from dataclasses import replace

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.attention import cache
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.operation import Inputs

LARGEST_K_NORM = 96.5
"""The largest K-norm weight seen in Qwen3: an error before this norm comes out up to a hundred times larger."""

FLOAT16 = 2.0**-11
"""The largest relative error of a value in the cache."""


def inputs(problem: NormQkvRope, seed: int) -> Inputs:
    """Buffers: x, norm float32 [hidden], eps [1], q_norm, k_norm float32 [head_dim], rope float32 [rope_dim] (cosines,
    then sines), position int64 [1], qkv and, with `qkv_bias`, bias float32 [q_rows + 2 kv_rows], keys and values (see
    `cache`; of one head that is not written where there are none)."""
    rng = np.random.default_rng(seed)
    position = int(rng.integers(1, 200))
    angles = position * 1e5 ** (-np.arange(0, problem.rope_dim, 2) / problem.rope_dim)
    keys, values = cache.allocate(problem.kv_heads or 1, problem.head_dim, 256)
    rows = problem.q_rows + 2 * problem.kv_rows
    given = Inputs(
        random_inputs.weights(problem, rng),
        {
            **random_inputs.normed_vector(problem.hidden, rng),
            "q_norm": random_inputs.norm_weight(problem.head_dim, rng),
            "k_norm": random_inputs.norm_weight(problem.head_dim, rng, LARGEST_K_NORM),
            "rope": np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32),
            "position": np.array([position], np.int64),
            "qkv": random_inputs.buffer(rows),
            "keys": keys,
            "values": values,
        },
    )
    if not problem.qkv_bias:
        return given
    return replace(given, buffers={**given.buffers, "bias": random_inputs.vector(rows, rng)})


def outputs(problem: NormQkvRope, given: Inputs) -> dict[str, np.ndarray]:
    """ "qkv" holds only the q part, with its gates; "keys" and "values" are the whole caches with the new position in
    them, unless they are another layer's."""
    b, dim, half = given.buffers, problem.head_dim, problem.rope_dim // 2
    n = float64.rms_norm(b["x"][: problem.hidden], b["norm"][: problem.hidden], b["eps"][0])
    made = np.concatenate([float64.product(given.weights[m.name], n) for m in problem.matrices])
    if problem.qkv_bias:
        made += b["bias"][: made.size]
    q, k, v = (part.reshape(-1, dim) for part in np.split(made, [problem.q_rows, problem.q_rows + problem.kv_rows]))
    each = 1 + problem.output_gate
    gated, q = q.reshape(problem.heads, each, dim), q[::each]
    if problem.qk_norm:
        q, k = (
            float64.rms_norm(q, b["q_norm"][:dim], b["eps"][0]),
            float64.rms_norm(k, b["k_norm"][:dim], b["eps"][0]),
        )
    if problem.v_norm:
        v = float64.rms_norm(v, np.ones(dim), b["eps"][0])
    cos, sin = b["rope"][:half].astype(np.float64), b["rope"][half : 2 * half].astype(np.float64)
    q, k = float64.rope(q, cos, sin), float64.rope(k, cos, sin)
    if not problem.kv_heads:
        return {"qkv": q.reshape(-1)}
    keys, values, at = b["keys"].astype(np.float64), b["values"].astype(np.float64), int(b["position"][0])
    keys[:, at // cache.TILE, :, at % cache.TILE] = k
    values[:, at] = v
    gated[:, 0] = q
    return {"qkv": gated.reshape(-1), "keys": keys, "values": values}


def tolerance(problem: NormQkvRope) -> float:
    """The product's error, and float16's in the cache; RMSNorm of a head keeps relative errors as they are."""
    return max(formats.get(m.format).tolerances[problem.activation] for m in problem.matrices) + FLOAT16
