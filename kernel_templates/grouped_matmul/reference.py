"""What a product with the matrices of several experts must give, in float64."""

from dataclasses import replace

import numpy as np

from kernel_templates import formats, random_inputs
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.lazy import torch
from kernel_templates.matmul.reference import FLOAT16_TOLERANCE
from kernel_templates.moe import reference as moe
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Inputs


def inputs(problem: GroupedMatmul, seed: int) -> Inputs:
    """Buffers: x float32 [rows of x * cols], expert_ids int32 [tokens * used], y float32 [tokens * used * outputs];
    with a bias gate_bias and up_bias float32 [experts * outputs]."""
    rng = np.random.default_rng(seed)
    buffers = {
        "x": random_inputs.vector(problem.pairs // problem.share * problem.cols, rng),
        "expert_ids": expert_ids(problem),
        "y": random_inputs.buffer(problem.pairs * problem.outputs),
    }
    given = Inputs(random_inputs.weights(problem, rng), buffers)
    if not problem.bias:
        return given
    biases = {name: random_inputs.vector(problem.experts * problem.outputs, rng) for name in ("gate_bias", "up_bias")}
    return replace(given, buffers={**buffers, **biases})


def expert_ids(problem: GroupedMatmul) -> np.ndarray:
    """int32 [tokens * used]: of each token different experts, all as likely. The same whatever the seed, because what
    has to be read depends on them."""
    rng = np.random.default_rng(problem.tokens)
    chosen = [rng.permutation(problem.experts)[: problem.used] for _ in range(problem.tokens)]
    return np.concatenate(chosen).astype(np.int32)


def outputs(problem: GroupedMatmul, given: Inputs) -> dict[str, np.ndarray]:
    b, outputs, weight = given.buffers, problem.outputs, given.weights["w"]
    x = b["x"][: problem.pairs // problem.share * problem.cols].reshape(-1, problem.cols).astype(np.float64)
    dequantize = formats.get(weight.format).dequantize
    y = np.zeros((problem.pairs, outputs))
    for expert in np.unique(b["expert_ids"]):
        pairs = np.flatnonzero(b["expert_ids"] == expert)
        own = slice(expert * outputs, (expert + 1) * outputs)
        below = slice((problem.experts + expert) * outputs, (problem.experts + expert + 1) * outputs)
        mine = torch.from_numpy(x[pairs // problem.share])
        z, up = (
            (mine @ dequantize(weight.raw[part]).double().T).numpy() for part in (own, below if problem.gate else own)
        )
        if problem.bias:
            z, up = z + b["gate_bias"][own], up + b["up_bias"][own]
        y[pairs] = _gated(problem, z, up) if problem.gate else z
    return {"y": y.ravel()}


def tolerance(problem: GroupedMatmul) -> float:
    """As of a product with many tokens: activations are float16."""
    limit = max(formats.get(problem.format).tolerances["int16"], FLOAT16_TOLERANCE)
    return limit * 2**0.5 if problem.gate else limit


def _gated(problem: GroupedMatmul, z: np.ndarray, up: np.ndarray) -> np.ndarray:
    form = problem.format
    mixture = Moe(
        problem.cols, problem.outputs, problem.experts, problem.used, form, form, form, form, gate_function=problem.gate
    )
    return moe.gate(mixture)(z, up)
