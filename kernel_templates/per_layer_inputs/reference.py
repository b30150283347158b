"""What a token's inputs to the layers must be, in float64."""

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.operation import Inputs
from kernel_templates.per_layer_inputs.problem import PerLayerInputs


def inputs(problem: PerLayerInputs, seed: int) -> Inputs:
    """Buffers: x float32 [hidden], inputs (in and out) and projected (of the product) float32 [layers * size], norm
    float32 [size], eps float32 [1]."""
    rng = np.random.default_rng(seed)
    matrices, read = random_inputs.weights(problem, rng), random_inputs.normed_vector(problem.hidden, rng)
    given = {
        "x": read["x"],
        "norm": random_inputs.norm_weight(problem.size, rng),
        "eps": read["eps"],
        "inputs": random_inputs.vector(problem.rows, rng),
        "projected": random_inputs.buffer(problem.rows),
    }
    return Inputs(matrices, given)


def outputs(problem: PerLayerInputs, given: Inputs) -> dict[str, np.ndarray]:
    b = given.buffers
    y = float64.product(given.weights["w"], b["x"][: problem.hidden]) / np.sqrt(problem.hidden)
    n = float64.rms_norm(y.reshape(problem.layers, problem.size), b["norm"][: problem.size], b["eps"][0])
    return {"inputs": (n.reshape(-1) + b["inputs"][: problem.rows]) / np.sqrt(2.0)}


def tolerance(problem: PerLayerInputs) -> float:
    return formats.get(problem.format).tolerances[problem.activation]
