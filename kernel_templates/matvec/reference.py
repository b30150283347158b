"""What a matrix-vector product must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Inputs


def inputs(problem: Matvec, seed: int) -> Inputs:
    """Buffers: x float32 [cols], out float32 [rows] holding the residual; with a bias also bias float32 [rows]; with a
    post norm also post_norm float32 [rows] and eps float32 [1]."""
    rng = np.random.default_rng(seed)
    made = Inputs(
        random_inputs.weights(problem, rng),
        {"x": random_inputs.vector(problem.cols, rng), "out": random_inputs.vector(problem.rows, rng)},
    )
    if problem.bias:
        made = Inputs(made.weights, {**made.buffers, "bias": random_inputs.vector(problem.rows, rng)})
    if problem.post_norm:
        made.buffers["x"][:] *= 8  # or the product's RMS would be near 1, and a norm left out hardly seen
        return random_inputs.with_post_norm(made, problem.rows, seed)
    return made


def outputs(problem: Matvec, given: Inputs) -> dict[str, np.ndarray]:
    y = float64.product(given.weights["w"], given.buffers["x"][: problem.cols])
    if problem.bias:
        y = y + given.buffers["bias"][: problem.rows]
    if problem.post_norm:
        y = float64.rms_norm(y, given.buffers["post_norm"][: problem.rows], given.buffers["eps"][0])
    return {"out": given.buffers["out"][: problem.rows] + y}


FEW_ROWS = 16


def tolerance(problem: Matvec) -> float:
    """Over a few rows the result itself may be small beside what it is the sum of: one row of 32 columns was off by
    0.00017."""
    allowed = formats.get(problem.format).tolerances[problem.activation]
    return 2 * allowed if problem.rows < FEW_ROWS else allowed
