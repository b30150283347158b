"""What a layer must give, in float64: its parts' references, one after the other."""

import numpy as np

from kernel_templates import random_inputs
from kernel_templates.attention import cache
from kernel_templates.attention import reference as attention
from kernel_templates.layer.chain import POST_NORMS
from kernel_templates.layer.problem import Layer
from kernel_templates.norm_qkv_rope import reference as norm_qkv_rope
from kernel_templates.operation import Inputs


def inputs(problem: Layer, seed: int) -> Inputs:
    """Weights q, k, v, out, gate, up, down. Buffers as the parts have them: x, attn_norm, ffn_norm, next_norm float32
    [hidden], with a bias qkv_bias, with post norms post_attn_norm and post_ffn_norm [hidden], with an input of the
    layer's own input [layer_input] and post_input_norm [hidden], with a scale out_scale [1], q_norm, k_norm, rope, eps,
    position (the last of `context`), keys and values filled up to it."""
    rng = np.random.default_rng(seed)
    first = norm_qkv_rope.inputs(problem.qkv_part, seed)
    filled = attention.inputs(problem.attention_part, seed + 1)
    position = problem.context - 1
    angles = position * 1e5 ** (-np.arange(0, problem.rope_dim, 2) / problem.rope_dim)
    keys, values = filled.buffers["keys"], filled.buffers["values"]
    if not problem.shared_kv:  # not there yet
        keys[:, position // cache.TILE, :, position % cache.TILE] = 0
        values[:, position] = 0
    weights, parts = dict(first.weights), problem.parts()
    for link in problem.links[1:]:
        drawn = random_inputs.weights(parts[link.prefix], rng)
        weights |= {link.weights[own]: matrix for own, matrix in drawn.items()}
    buffers = {
        "x": first.buffers["x"],
        "attn_norm": first.buffers["norm"],
        "ffn_norm": random_inputs.norm_weight(problem.hidden, rng),
        "next_norm": random_inputs.norm_weight(problem.hidden, rng),
        "eps": first.buffers["eps"],
        "q_norm": first.buffers["q_norm"],
        # Modest here, or one key would win every softmax: attention's own inputs have no such keys to compare with.
        "k_norm": random_inputs.norm_weight(problem.head_dim, rng),
        "rope": np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32),
        "position": np.array([position], np.int64),
        "keys": keys,
        "values": values,
    }
    if problem.qkv_bias:
        buffers["qkv_bias"] = first.buffers["bias"]
    if problem.post_norm:
        buffers |= {name: random_inputs.norm_weight(problem.hidden, rng) for name in POST_NORMS}
    if problem.layer_input:
        buffers["post_input_norm"] = random_inputs.norm_weight(problem.hidden, rng)
        buffers["input"] = random_inputs.vector(problem.layer_input, rng)
    made = Inputs(weights, buffers)
    return random_inputs.with_out_scale(made) if problem.out_scale else made


def outputs(problem: Layer, given: Inputs) -> dict[str, np.ndarray]:
    """x after the layer, and "delta", what the layer added to it: an error there is not hidden behind a large x."""
    buffers, parts = dict(given.buffers), problem.parts()
    for link in problem.links:
        weights = {own: given.weights[name] for own, name in link.weights.items() if name in given.weights}
        made = link.operation.reference(parts[link.prefix], Inputs(weights, link.bound(buffers)))
        buffers |= link.written(made)
        buffers |= {
            name: buffers[name].astype(np.float16, copy=False) for name in ("keys", "values")
        }  # as the cache holds them
    return {"x": buffers["x"], "delta": buffers["x"] - given.buffers["x"][: problem.hidden]}


def tolerance(problem: Layer) -> float:
    """The parts' errors add up, float16's in the cache among them."""
    parts = problem.parts()
    return sum(link.operation.tolerance(parts[link.prefix]) for link in problem.links)
