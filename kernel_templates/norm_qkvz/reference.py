"""What a gated delta net's projections must give, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.operation import Inputs


def inputs(problem: NormQkvz, seed: int) -> Inputs:
    """Buffers: x, norm float32 [hidden], eps [1], projected float32 [the rows of all matrices]."""
    rows = sum(m.rows for m in problem.matrices)
    return random_inputs.normed_inputs(problem, problem.hidden, {"projected": rows}, seed)


def outputs(problem: NormQkvz, given: Inputs) -> dict[str, np.ndarray]:
    b = given.buffers
    n = float64.rms_norm(b["x"][: problem.hidden], b["norm"][: problem.hidden], b["eps"][0])
    return {"projected": np.concatenate([float64.product(given.weights[m.name], n) for m in problem.matrices])}


def tolerance(problem: NormQkvz) -> float:
    return max(formats.get(m.format).tolerances[problem.activation] for m in problem.matrices)
