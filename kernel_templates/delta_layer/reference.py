"""A layer with a gated delta net: its inputs. What it must give follows from its parts, as of any layer."""

import numpy as np

from kernel_templates import random_inputs
from kernel_templates.delta_layer.problem import DeltaLayer
from kernel_templates.gated_delta import reference as gated_delta
from kernel_templates.layer.reference import add_mixture
from kernel_templates.operation import Inputs, Weight

OWN = ("conv", "decay", "dt_bias", "conv_state", "state", "position")


def inputs(problem: DeltaLayer, seed: int) -> Inputs:
    """Weights qkv, z, beta, alpha, out, gate, up, down, of a mixture also router and those of a shared expert. Buffers
    as the parts have them: x, attn_norm, ffn_norm, next_norm float32 [hidden], delta_norm [head_dim], eps, `OWN` of the
    gated delta net, and a mixture's biases."""
    rng = np.random.default_rng(seed)
    parts, weights = problem.parts(), dict[str, Weight]()
    for link in problem.links:
        drawn = random_inputs.weights(parts[link.prefix], rng)
        weights |= {link.weights[own]: matrix for own, matrix in drawn.items()}
    delta, normed = gated_delta.inputs(problem.delta_part, seed + 1), random_inputs.normed_vector(problem.hidden, rng)
    buffers = {
        "x": normed["x"],
        "attn_norm": normed["norm"],
        "ffn_norm": random_inputs.norm_weight(problem.hidden, rng),
        "next_norm": random_inputs.norm_weight(problem.hidden, rng),
        "eps": normed["eps"],
        "delta_norm": delta.buffers["norm"],
        **{name: delta.buffers[name] for name in OWN},
    }
    add_mixture(problem, weights, buffers, rng)
    return Inputs(weights, buffers)
