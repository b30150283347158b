"""What a mixture of experts must give, in float64."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kernel_templates import float64, formats, random_inputs
from kernel_templates.lazy import torch
from kernel_templates.moe.problem import BESIDE, Moe
from kernel_templates.operation import Inputs, Weight

APART = 0.25
"""How far the logits of chosen experts are from the others' in random inputs, at least: a kernel's rounding shifts
logits by less, and would else choose another expert, whose output is another. Logits have a deviation near 1."""
BIASES = ("router_bias", "gate_bias", "up_bias", "down_bias")
OAI_ALPHA, OAI_LIMIT = 1.702, 7.0


def inputs(problem: Moe, seed: int) -> Inputs:
    """Buffers: x (in and out), norm float32 [hidden], eps float32 [1]; expert_ids int32 [used] and expert_weights
    float32 [used] (written), gated float32 [used * ffn + shared_ffn] (between the two halves). As the problem's traits
    ask: router_bias float32 [experts], gate_bias and up_bias [experts * ffn], down_bias [experts * hidden]; post_norm
    [hidden]; BESIDE; out_scale [1]."""
    rng = np.random.default_rng(seed)
    drawn = random_inputs.weights(problem, rng)
    buffers = random_inputs.normed_vector(problem.hidden, rng) | {
        "expert_ids": np.zeros(problem.used, np.int32),
        "expert_weights": random_inputs.buffer(problem.used),
        "gated": random_inputs.buffer(problem.gated),
    }
    if problem.bias:
        sizes = (problem.experts, problem.all_ffn, problem.all_ffn, problem.all_hidden)
        for name, size in zip(BIASES, sizes, strict=True):
            buffers[name] = random_inputs.vector(size, rng) / np.float32(2)
    if problem.post_norm:
        buffers["post_norm"] = random_inputs.norm_weight(problem.hidden, rng)
    if problem.beside:
        buffers |= beside(problem, rng)
    given = Inputs(drawn, buffers)
    return with_choices_apart(problem, random_inputs.with_out_scale(given) if problem.out_scale else given, rng)


def beside(problem: Moe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """BESIDE."""
    sizes = {name: problem.experts if name == "expert_scale" else problem.hidden for name in BESIDE}
    return {name: random_inputs.norm_weight(size, rng) for name, size in sizes.items()}


def with_choices_apart(
    problem: Moe, given: Inputs, rng: np.random.Generator, elsewhere: Sequence[Inputs] = ()
) -> Inputs:
    """The same with another router, no two rows of which are alike, that sets the logits of the experts it chooses at
    these x and norm apart from the others'; so at those of `elsewhere`, where it chooses the same."""
    router = given.weights["router"]
    if router.raw.is_meta:
        return given
    n = np.stack([_routed(problem, each) for each in (given, *elsewhere)])
    rows = rng.standard_normal((problem.experts, problem.hidden), np.float32) / np.float32(np.linalg.norm(n[0]))
    logits = n @ rows.T
    if problem.bias:
        logits = logits + given.buffers["router_bias"][: problem.experts]
    chosen = choose(logits[0], problem.used)
    others = np.delete(logits, chosen, 1)
    if others.size:
        missing = others.max(1) - logits[:, chosen].min(1) + 2 * APART
        rows[chosen] += np.linalg.lstsq(n, missing, rcond=None)[0].astype(np.float32)
    raw = formats.get(router.format).quantize(torch.from_numpy(rows))
    return replace(given, weights={**given.weights, "router": Weight(raw, router.cols, router.format)})


def choose(logits: np.ndarray, used: int) -> np.ndarray:
    """The numbers of the `used` largest, from the largest on; of equal ones the lower first."""
    return np.argsort(-logits, kind="stable")[:used]


def routing_weights(problem: Moe, logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """float64 [used], from the logits of all experts, before `expert_scale`."""
    if problem.routing == "sigmoid":
        weights = _sigmoid(logits[chosen])
    else:
        powers = np.exp(logits - logits.max())
        weights = powers[chosen] / (powers[chosen] if problem.routing == "softmax_of_chosen" else powers).sum()
    return weights / (weights.sum() if problem.normalized else 1.0) * problem.scale


def gate(problem: Moe) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(gate's products, up's) -> what down multiplies, in float64."""
    if problem.gate_function == "swiglu_oai":
        return _swiglu_oai
    function = {"silu": float64.silu, "gelu": float64.gelu}[problem.gate_function]
    return lambda g, u: function(g) * u


def expert_rows(weight: Weight, expert: int, rows: int) -> Weight:
    """One expert's matrix of so many rows."""
    own = slice(expert * rows, (expert + 1) * rows)
    repeats = weight.repeats and (weight.repeats[0], weight.repeats[1][own])
    return Weight(weight.raw[own], weight.cols, weight.format, repeats)


def outputs(problem: Moe, given: Inputs) -> dict[str, np.ndarray]:
    b, weights, n = given.buffers, given.weights, _normed(problem, given)
    logits = float64.product(weights["router"], _routed(problem, given))
    if problem.bias:
        logits = logits + b["router_bias"][: problem.experts]
    chosen = choose(logits, problem.used)
    shares = routing_weights(problem, logits, chosen)
    if problem.beside:
        shares = shares * b["expert_scale"][chosen]

    def product(name: str, expert: int, x: np.ndarray) -> np.ndarray:
        rows = problem.hidden if name == "down" else problem.ffn
        y = float64.product(expert_rows(weights[name], expert, rows), x)
        return y + b[f"{name}_bias"][expert * rows : (expert + 1) * rows] if problem.bias else y

    def normed(y: np.ndarray, norm: str) -> np.ndarray:
        return float64.rms_norm(y, b[norm][: problem.hidden], b["eps"][0])

    gated = [gate(problem)(product("gate", e, n), product("up", e, n)) for e in chosen]
    y = sum(
        (share * product("down", e, g) for share, e, g in zip(shares, chosen, gated, strict=True)),
        np.zeros(problem.hidden),
    )
    if problem.shared_ffn:
        own = _normed(problem, given, "shared_norm") if problem.beside else n
        up = float64.product(weights["shared_up"], own)
        gated.append(gate(problem)(float64.product(weights["shared_gate"], own), up))
        share = _sigmoid(float64.product(weights["shared_router"], n)) if problem.shared_gated else 1.0
        shared = share * float64.product(weights["shared_down"], gated[-1])
        y = normed(y, "experts_post_norm") + normed(shared, "shared_post_norm") if problem.beside else y + shared
    if problem.post_norm:
        y = normed(y, "post_norm")
    x = b["x"][: problem.hidden] + y
    return {
        "expert_ids": chosen,
        "expert_weights": shares,
        "gated": np.concatenate(gated),
        "x": x * np.float64(b["out_scale"][0]) if problem.out_scale else x,
    }


def tolerance(problem: Moe) -> float:
    """The router's product and three in a row: their errors add up."""
    each = {m.name: formats.get(m.format).tolerances[problem.activation] for m in problem.matrices}
    return each["router"] + sum(max(each[name], each.get(f"shared_{name}", 0.0)) for name in ("gate", "up", "down"))


def _routed(problem: Moe, given: Inputs) -> np.ndarray:
    """What the router reads."""
    return _normed(problem, given, "router_norm" if problem.beside else "norm")


def _normed(problem: Moe, given: Inputs, norm_name: str = "norm") -> np.ndarray:
    x, norm, eps = (given.buffers[name] for name in ("x", norm_name, "eps"))
    return float64.rms_norm(x[: problem.hidden], norm[: problem.hidden], eps[0])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _swiglu_oai(g: np.ndarray, u: np.ndarray) -> np.ndarray:
    g, u = np.minimum(g, OAI_LIMIT), np.clip(u, -OAI_LIMIT, OAI_LIMIT)
    return g * _sigmoid(OAI_ALPHA * g) * (1.0 + u)
