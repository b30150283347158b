"""What a product with many tokens must give, in float64."""

from typing import Any

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.lazy import torch
from kernel_templates.matmul.problem import Matmul
from kernel_templates.operation import Inputs

FLOAT16_TOLERANCE = 1.5e-3


def inputs(problem: Matmul, seed: int) -> Inputs:
    """Buffers: x float32 [tokens * cols], y float32 [tokens * outputs]."""
    rng = np.random.default_rng(seed)
    buffers = {
        "x": random_inputs.vector(problem.tokens * problem.cols, rng),
        "y": random_inputs.buffer(problem.tokens * problem.outputs),
    }
    return Inputs(random_inputs.weights(problem, rng), buffers)


def outputs(problem: Matmul, given: Inputs) -> dict[str, np.ndarray]:
    x = given.buffers["x"][: problem.tokens * problem.cols].reshape(problem.tokens, problem.cols)
    y = product(given, x)
    if problem.gate:
        gate, up = np.split(y, 2, 1)
        y = {"silu": float64.silu, "gelu": float64.gelu}[problem.gate](gate) * up
    return {"y": y.ravel()}


def product(given: Inputs, x: np.ndarray) -> np.ndarray:
    """float64 [tokens, rows]."""
    weight = given.weights["w"]
    raw, which = weight.repeats or (weight.raw, slice(None))
    matrix = formats.get(weight.format).dequantize(raw).double()
    return (torch.from_numpy(x.astype(np.float64)) @ matrix.T)[:, which].numpy()


def cpu_tolerance(problem: Any) -> float:
    """Of a product, `Matmul` or grouped, as of one with one token: activations are int16 or float32. A gate multiplies
    two of them."""
    return formats.get(problem.format).cpu_tolerances["int16"] * (2**0.5 if problem.gate else 1.0)


def tolerance(problem: Matmul) -> float:
    """On a GPU activations, and weights or their scales, are rounded to float16, 2^-11 / sqrt(3) = 0.00028 each, with a
    minimum several times its size: 0.0007 was seen. A gate multiplies two such products: their errors' squares add up.
    A mistake makes more (`formats.base`)."""
    limit = max(formats.get(problem.format).tolerances["int16"], FLOAT16_TOLERANCE)
    return limit * 2**0.5 if problem.gate else limit
