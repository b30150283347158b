"""What the gate of a layer's input must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.operation import Inputs


def inputs(problem: InputGate, seed: int) -> Inputs:
    """Buffers: x (in and out) and post_norm float32 [hidden], input and gated (between the products) float32 [size],
    eps float32 [1]; out_scale float32 [1] if there is one."""
    rng = np.random.default_rng(seed)
    matrices = random_inputs.weights(problem, rng)
    buffers = {
        "x": random_inputs.vector(problem.hidden, rng),
        "input": random_inputs.vector(problem.size, rng),
        "gated": random_inputs.buffer(problem.size),
    }
    made = random_inputs.with_post_norm(Inputs(matrices, buffers), problem.hidden, seed)
    return random_inputs.with_out_scale(made) if problem.out_scale else made


def outputs(problem: InputGate, given: Inputs) -> dict[str, np.ndarray]:
    b, x = given.buffers, given.buffers["x"][: problem.hidden].astype(np.float64)
    gated = float64.gelu(float64.product(given.weights["gate"], x)) * b["input"][: problem.size]
    y = float64.product(given.weights["proj"], gated)
    x = x + float64.rms_norm(y, b["post_norm"][: problem.hidden], b["eps"][0])
    return {"gated": gated, "x": x * np.float64(b["out_scale"][0]) if problem.out_scale else x}


def tolerance(problem: InputGate) -> float:
    """Two products in a row: their errors add up."""
    return sum(formats.get(m.format).tolerances[problem.activation] for m in problem.matrices)
