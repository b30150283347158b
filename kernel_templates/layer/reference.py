"""What a layer must give, in float64: its parts' references, one after the other."""

from collections.abc import Sequence

import numpy as np

from kernel_templates import random_inputs
from kernel_templates.attention import cache
from kernel_templates.attention import reference as attention
from kernel_templates.layer.chain import POST_NORMS, Link
from kernel_templates.layer.problem import Layer, LinkedChain
from kernel_templates.moe import reference as moe
from kernel_templates.moe.problem import BESIDE, Moe
from kernel_templates.norm_qkv_rope import reference as norm_qkv_rope
from kernel_templates.operation import Inputs, Weight


def inputs(problem: Layer, seed: int) -> Inputs:
    """Weights q, k, v, out, gate, up, down, of a mixture also router and those of a shared expert. Buffers as the parts
    have them: x, attn_norm, ffn_norm, next_norm float32 [hidden], with biases qkv_bias and out_bias, with sinks sinks,
    with post norms post_attn_norm and post_ffn_norm [hidden], q_norm, k_norm, rope, eps, position (the last of
    `context`), keys and values filled up to it; a mixture's biases, or BESIDE; with an input of the layer's own input
    [layer_input] and post_input_norm [hidden], with a scale out_scale [1]."""
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
    if problem.out_bias:
        buffers["out_bias"] = random_inputs.vector(problem.hidden, rng)
    if problem.sinks:
        buffers["sinks"] = filled.buffers["sinks"]
    if problem.post_norm:
        buffers |= {name: random_inputs.norm_weight(problem.hidden, rng) for name in POST_NORMS}
    add_mixture(problem, weights, buffers, rng)
    if problem.layer_input:
        buffers["post_input_norm"] = random_inputs.norm_weight(problem.hidden, rng)
        buffers["input"] = random_inputs.vector(problem.layer_input, rng)
    made = Inputs(weights, buffers)
    return random_inputs.with_out_scale(made) if problem.out_scale else made


def add_mixture(
    problem: LinkedChain, weights: dict[str, Weight], buffers: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    """What a mixture has, if the layer has one: biases or what it has beside a network, and a router whose choice at
    the layer's own x no rounding changes, wherever the layer is proved."""
    part = problem.parts().get("moe")
    if not isinstance(part, Moe):
        return
    at = next(i for i, link in enumerate(problem.links) if link.prefix == "moe")
    link = problem.links[at]
    drawn = moe.inputs(part, int(rng.integers(1 << 31))).buffers
    buffers |= {link.buffers[own]: drawn[own] for own in (*moe.BIASES, *BESIDE) if own in drawn}
    if weights["router"].raw.is_meta:
        return
    places = [{}, *({"position": np.array([position], np.int64)} for position in problem.proved_positions)]
    before = (through(problem, Inputs(weights, buffers | place), problem.links[:at]) for place in places)
    given, *elsewhere = (Inputs(link.own_weights(weights), link.bound(here)) for here in before)
    weights["router"] = moe.with_choices_apart(part, given, rng, elsewhere).weights["router"]


def outputs(problem: LinkedChain, given: Inputs) -> dict[str, np.ndarray]:
    """x after the layer, and "delta", what the layer added to it: an error there is not hidden behind a large x."""
    buffers = through(problem, given, problem.links)
    return {"x": buffers["x"], "delta": buffers["x"] - given.buffers["x"][: len(buffers["x"])]}


def through(problem: LinkedChain, given: Inputs, links: Sequence[Link]) -> dict[str, np.ndarray]:
    """The buffers after the first operations of a layer."""
    buffers, parts = dict(given.buffers), problem.parts()
    for link in links:
        own = link.own_weights(given.weights)
        made = link.operation.reference(parts[link.prefix], Inputs(own, link.bound(buffers)))
        buffers |= link.written(made)
        if isinstance(problem, Layer) and made.keys() >= {"keys", "values"}:
            kept = cache.as_stored(buffers["keys"], buffers["values"], problem.cache)
            buffers |= dict(zip(("keys", "values"), kept, strict=True))
    return buffers


def tolerance(problem: LinkedChain) -> float:
    """The parts' errors add up, that of the cache among them."""
    parts = problem.parts()
    return sum(link.operation.tolerance(parts[link.prefix]) for link in problem.links)
