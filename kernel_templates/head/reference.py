"""What the head must give, in float64."""

import numpy as np

from kernel_templates import formats, samples, truth
from kernel_templates.head.problem import Head
from kernel_templates.operation import Inputs


def inputs(problem: Head, seed: int) -> Inputs:
    """Buffers: x, norm float32 [hidden], eps float32 [1], logits float32 [vocab]."""
    rng = np.random.default_rng(seed)
    return Inputs(
        {"w": samples.weight(problem.vocab, problem.hidden, problem.format, rng)},
        {
            "x": samples.vector(problem.hidden, rng),
            "norm": samples.norm_weight(problem.hidden, rng),
            "eps": np.array([1e-6], np.float32),
            "logits": samples.buffer(problem.vocab),
        },
    )


def outputs(problem: Head, given: Inputs) -> dict[str, np.ndarray]:
    x, norm, eps = (given.buffers[n] for n in ("x", "norm", "eps"))
    normed = truth.rms_norm(x[: problem.hidden], norm[: problem.hidden], eps[0])
    return {"logits": truth.product(given.weights["w"], normed)}


def tolerance(problem: Head) -> float:
    return formats.get(problem.format).tolerance
