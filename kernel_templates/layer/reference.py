"""What a layer must give, in float64: its parts' references, one after the other."""

import numpy as np

from kernel_templates import random_inputs
from kernel_templates.attention import cache
from kernel_templates.attention import reference as attention
from kernel_templates.ffn import reference as ffn
from kernel_templates.layer.problem import Layer
from kernel_templates.matvec import reference as matvec
from kernel_templates.norm_qkv_rope import reference as norm_qkv_rope
from kernel_templates.operation import Inputs


def inputs(problem: Layer, seed: int) -> Inputs:
    """Weights q, k, v, out, gate, up, down. Buffers as the parts have them: x, attn_norm, ffn_norm, next_norm float32
    [hidden], q_norm, k_norm, rope, eps, position (the last of `context`), keys and values filled up to it."""
    rng = np.random.default_rng(seed)
    first = norm_qkv_rope.inputs(problem.qkv_part, seed)
    filled = attention.inputs(problem.attention_part, seed + 1)
    position = problem.context - 1
    angles = position * 1e5 ** (-np.arange(0, problem.rope_dim, 2) / problem.rope_dim)
    keys, values = filled.buffers["keys"], filled.buffers["values"]
    keys[:, position // cache.TILE, :, position % cache.TILE] = 0  # not there yet
    values[:, position] = 0
    weights = {
        **first.weights,
        "out": random_inputs.weight(problem.hidden, problem.heads * problem.head_dim, problem.out_format, rng),
        "gate": random_inputs.weight(problem.ffn, problem.hidden, problem.gate_format, rng),
        "up": random_inputs.weight(problem.ffn, problem.hidden, problem.up_format, rng),
        "down": random_inputs.weight(problem.hidden, problem.ffn, problem.down_format, rng),
    }
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
    return Inputs(weights, buffers)


def outputs(problem: Layer, given: Inputs) -> dict[str, np.ndarray]:
    """x after the layer, and "delta", what the layer added to it: an error there is not hidden behind a large x."""
    b, w = given.buffers, given.weights
    shared = {name: b[name] for name in ("x", "eps", "q_norm", "k_norm", "rope", "position", "keys", "values")}
    after = norm_qkv_rope.outputs(problem.qkv_part, Inputs(w, shared | {"norm": b["attn_norm"]}))
    seen = {"q": after["qkv"], "position": b["position"]}
    seen |= {name: after[name].astype(np.float16) for name in ("keys", "values")}
    attended = attention.outputs(problem.attention_part, Inputs({}, seen))["out"]
    x = matvec.outputs(problem.out_part, Inputs({"w": w["out"]}, {"x": attended, "out": b["x"]}))["out"]
    x = ffn.outputs(problem.ffn_part, Inputs(w, {"x": x, "norm": b["ffn_norm"], "eps": b["eps"]}))["x"]
    return {"x": x, "delta": x - b["x"][: problem.hidden]}


def tolerance(problem: Layer) -> float:
    """The products' errors add up; attention's and float16's are small beside them."""
    return (
        norm_qkv_rope.tolerance(problem.qkv_part) + matvec.tolerance(problem.out_part) + ffn.tolerance(problem.ffn_part)
    )
