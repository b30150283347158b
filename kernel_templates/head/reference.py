"""What the head must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.head.problem import Head
from kernel_templates.operation import Inputs


def inputs(problem: Head, seed: int) -> Inputs:
    """Buffers: x, norm float32 [hidden], eps float32 [1], logits float32 [vocab]."""
    made = random_inputs.normed_inputs(problem, problem.hidden, {"logits": problem.vocab}, seed)
    if problem.softcap:
        made.buffers["norm"][:] *= problem.softcap  # or logits would be far below the cap, and as good as none of it
    return made


def outputs(problem: Head, given: Inputs) -> dict[str, np.ndarray]:
    x, norm, eps = (given.buffers[n] for n in ("x", "norm", "eps"))
    normed = float64.rms_norm(x[: problem.hidden], norm[: problem.hidden], eps[0])
    return {"logits": float64.soft_cap(float64.product(given.weights["w"], normed), problem.softcap)}


def tolerance(problem: Head) -> float:
    return formats.get(problem.format).tolerances[problem.activation]
