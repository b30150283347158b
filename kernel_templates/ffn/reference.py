"""What the feed-forward network must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Inputs


def inputs(problem: Ffn, seed: int) -> Inputs:
    """Buffers: x (in and out), norm float32 [hidden], eps float32 [1], gated float32 [ffn] (between the two halves);
    post_norm float32 [hidden] and out_scale float32 [1] if there are such."""
    made = random_inputs.normed_inputs(problem, problem.hidden, {"gated": problem.ffn}, seed)
    if problem.post_norm:
        made = random_inputs.with_post_norm(made, problem.hidden, seed)
    return random_inputs.with_out_scale(made) if problem.out_scale else made


def outputs(problem: Ffn, given: Inputs) -> dict[str, np.ndarray]:
    x, norm, eps = (given.buffers[n] for n in ("x", "norm", "eps"))
    n = float64.rms_norm(x[: problem.hidden], norm[: problem.hidden], eps[0])
    gate = {"silu": float64.silu, "gelu": float64.gelu}[problem.gate_function]
    gated = gate(float64.product(given.weights["gate"], n)) * float64.product(given.weights["up"], n)
    y = float64.product(given.weights["down"], gated)
    if problem.post_norm:
        y = float64.rms_norm(y, given.buffers["post_norm"][: problem.hidden], eps[0])
    scale = np.float64(given.buffers["out_scale"][0]) if problem.out_scale else 1.0
    return {"gated": gated, "x": (x[: problem.hidden] + y) * scale}


def tolerance(problem: Ffn) -> float:
    """Three products in a row: their errors add up."""
    return sum(formats.get(m.format).tolerances[problem.activation] for m in problem.matrices)
