"""What a matrix-vector product must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Inputs


def inputs(problem: Matvec, seed: int) -> Inputs:
    """Buffers: x float32 [cols], out float32 [rows] holding the residual."""
    rng = np.random.default_rng(seed)
    return Inputs(
        random_inputs.weights(problem, rng),
        {"x": random_inputs.vector(problem.cols, rng), "out": random_inputs.vector(problem.rows, rng)},
    )


def outputs(problem: Matvec, given: Inputs) -> dict[str, np.ndarray]:
    product = float64.product(given.weights["w"], given.buffers["x"][: problem.cols])
    return {"out": given.buffers["out"][: problem.rows] + product}


FEW_ROWS = 16


def tolerance(problem: Matvec) -> float:
    """Over a few rows the result itself may be small beside what it is the sum of: one row of 32 columns was off by
    0.00017."""
    allowed = formats.get(problem.format).tolerances[problem.activation]
    return 2 * allowed if problem.rows < FEW_ROWS else allowed
