"""What the feed-forward network must give, in float64."""

import numpy as np

from kernel_templates import formats, samples, truth
from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Inputs


def inputs(problem: Ffn, seed: int) -> Inputs:
    """Buffers: x (in and out), norm float32 [hidden], eps float32 [1], gated float32 [ffn] (between the two halves)."""
    rng = np.random.default_rng(seed)
    return Inputs(
        {
            "gate": samples.weight(problem.ffn, problem.hidden, problem.gate_format, rng),
            "up": samples.weight(problem.ffn, problem.hidden, problem.up_format, rng),
            "down": samples.weight(problem.hidden, problem.ffn, problem.down_format, rng),
        },
        {
            "x": samples.vector(problem.hidden, rng),
            "norm": samples.norm_weight(problem.hidden, rng),
            "eps": np.array([1e-6], np.float32),
            "gated": samples.buffer(problem.ffn),
        },
    )


def outputs(problem: Ffn, given: Inputs) -> dict[str, np.ndarray]:
    x, norm, eps = (given.buffers[n] for n in ("x", "norm", "eps"))
    n = truth.rms_norm(x[: problem.hidden], norm[: problem.hidden], eps[0])
    gated = truth.silu(truth.product(given.weights["gate"], n)) * truth.product(given.weights["up"], n)
    return {"gated": gated, "x": x[: problem.hidden] + truth.product(given.weights["down"], gated)}


def tolerance(problem: Ffn) -> float:
    """Three products in a row: their errors add up."""
    parts = (problem.gate_format, problem.up_format, problem.down_format)
    return sum(formats.get(f).tolerance for f in parts)
