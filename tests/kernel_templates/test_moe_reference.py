"""The mixture's reference against a loop over numbers, its inputs, its work, and what a key may ask for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_templates import float64, formats, given_problem, registry
from kernel_templates.delta_layer.problem import DeltaLayer
from kernel_templates.layer import reference as layer
from kernel_templates.moe import reference
from kernel_templates.moe.problem import GATE_FUNCTIONS, ROUTINGS, Moe
from kernel_templates.operation import Inputs, Weight

SHARED = {
    "shared_ffn": 64,
    "shared_gate_format": "Q8_0",
    "shared_up_format": "Q8_0",
    "shared_down_format": "Q4_0",
    "shared_gated": 1,
}
PROBLEMS = [
    Moe(64, 32, 8, 2, "F32", "Q4_0", "Q4_0", "Q8_0", normalized=1),
    Moe(64, 32, 8, 2, "F32", "F16", "F16", "F16", routing="sigmoid", normalized=1, scale=2.5),
    Moe(
        64, 32, 4, 4, "F32", "MXFP4", "MXFP4", "MXFP4",
        gate_function="swiglu_oai", routing="softmax_of_chosen", bias=1,
    ),
    Moe(64, 32, 8, 1, "BF16", "Q8_0", "Q4_1", "Q5_0", gate_function="gelu", post_norm=1),
    Moe(64, 32, 6, 3, "F32", "Q8_0", "Q8_0", "Q8_0", **SHARED),
    Moe(
        64, 32, 6, 3, "F32", "Q8_0", "Q8_0", "Q8_0", gate_function="gelu", normalized=1, post_norm=1, beside=1,
        out_scale=1, **{**SHARED, "shared_gated": 0},
    ),
]  # fmt: skip


def matrix(weight: Weight) -> list[list[float]]:
    return formats.get(weight.format).dequantize(weight.raw).double().tolist()


def by_loops(problem: Moe, given: Inputs) -> dict[str, list[float]]:
    """Everything for every expert, in Python's numbers; only then are experts chosen."""
    weights = {name: matrix(w) for name, w in given.weights.items()}
    b = {name: buffer.astype(float).tolist() for name, buffer in given.buffers.items()}

    def dot(row: list[float], x: list[float]) -> float:
        return math.fsum(a * c for a, c in zip(row, x, strict=False))

    def norm(x: list[float], by: str) -> list[float]:
        rms = math.sqrt(math.fsum(v * v for v in x) / len(x) + b["eps"][0])
        return [v / rms * w for v, w in zip(x, b[by], strict=False)]

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    def gated(g: float, u: float) -> float:
        if problem.gate_function == "swiglu_oai":
            g, u = min(g, 7.0), max(-7.0, min(u, 7.0))
            return g * sigmoid(1.702 * g) * (u + 1)
        if problem.gate_function == "gelu":
            return g / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))) * u
        return g * sigmoid(g) * u

    def bias(name: str, row: int) -> float:
        return b[f"{name}_bias"][row] if problem.bias else 0.0

    n = norm(b["x"][: problem.hidden], "norm")
    routed = norm(b["x"][: problem.hidden], "router_norm") if problem.beside else n
    logits = [dot(weights["router"][e], routed) + bias("router", e) for e in range(problem.experts)]
    scores = [sigmoid(v) if problem.routing == "sigmoid" else math.exp(v) for v in logits]
    if problem.routing == "softmax":
        scores = [v / math.fsum(scores) for v in scores]
    left, chosen = list(range(problem.experts)), []
    while len(chosen) < problem.used:
        best = max(left, key=lambda e: (logits[e], -e))
        left.remove(best)
        chosen.append(best)
    total = math.fsum(scores[e] for e in chosen)
    divided = problem.normalized or problem.routing == "softmax_of_chosen"
    shares = [problem.scale * scores[e] / (total if divided else 1) for e in chosen]
    if problem.beside:
        shares = [share * b["expert_scale"][e] for share, e in zip(shares, chosen, strict=True)]
    between: list[float] = []
    y = [0.0] * problem.hidden
    for e, share in zip(chosen, shares, strict=True):
        rows = range(e * problem.ffn, (e + 1) * problem.ffn)
        h = [
            gated(dot(weights["gate"][r], n) + bias("gate", r), dot(weights["up"][r], n) + bias("up", r)) for r in rows
        ]
        between += h
        for i in range(problem.hidden):
            r = e * problem.hidden + i
            y[i] += share * (dot(weights["down"][r], h) + bias("down", r))
    if problem.shared_ffn:
        pairs = zip(weights["shared_gate"], weights["shared_up"], strict=True)
        own = norm(b["x"][: problem.hidden], "shared_norm") if problem.beside else n
        h = [gated(dot(g, own), dot(u, own)) for g, u in pairs]
        between += h
        share = sigmoid(dot(weights["shared_router"][0], n)) if problem.shared_gated else 1.0
        other = [share * dot(row, h) for row in weights["shared_down"]]
        if problem.beside:
            y, other = norm(y, "experts_post_norm"), norm(other, "shared_post_norm")
        y = [v + w for v, w in zip(y, other, strict=True)]
    if problem.post_norm:
        y = norm(y, "post_norm")
    x = [a + c for a, c in zip(b["x"], y, strict=False)]
    if problem.out_scale:
        x = [v * b["out_scale"][0] for v in x]
    return {"expert_ids": [float(e) for e in chosen], "expert_weights": shares, "gated": between, "x": x}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_the_reference_is_what_loops_give(problem):
    given = reference.inputs(problem, 3)
    made, expected = reference.outputs(problem, given), by_loops(problem, given)
    assert made.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(made[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_of_equal_logits_the_lower_expert_comes_first(logits, data):
    used = data.draw(st.integers(1, len(logits)))
    chosen = reference.choose(np.array(logits, float), used)
    assert chosen.tolist() == sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:used]


def test_a_layer_chooses_the_same_experts_wherever_it_is_proved():
    """Set apart at each position: an error of a kernel that counts as right chooses no others."""
    traits = {**SHARED, "normalized": 1, "router_format": "F32"}
    problem = DeltaLayer(64, 4, 2, 16, 4, 32, *["Q8_0"] * 7, "int16", experts=32, used=4, **traits)
    drawn, chosen = registry.get(problem.op).inputs(problem, 5), set()
    for place in (drawn.buffers["position"], *np.array(problem.proved_positions)[:, None]):
        there = replace(drawn, buffers={**drawn.buffers, "position": place})
        before = layer.through(problem, there, problem.links[:-1])
        n = float64.rms_norm(before["x"][:64], before["ffn_norm"][:64], before["eps"][0])
        logits = float64.product(drawn.weights["router"], n)
        best = reference.choose(logits, 5).tolist()
        assert logits[best[3]] - logits[best[4]] > reference.APART
        chosen.add(frozenset(best[:4]))
    assert len(problem.proved_positions) == 4 and len(chosen) == 1


def test_experts_that_all_tie_are_the_first_ones_with_equal_weights():
    problem = Moe(64, 32, 8, 3, "F32", "Q8_0", "Q8_0", "Q8_0", normalized=1)
    given = reference.inputs(problem, 1)
    given.weights["router"].raw[:] = given.weights["router"].raw[0]
    made = reference.outputs(problem, given)
    assert made["expert_ids"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(made["expert_weights"], 1 / 3)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_normalized_weights_sum_to_the_scale(routing):
    problem = Moe(64, 32, 8, 3, "F32", "Q8_0", "Q8_0", "Q8_0", routing=routing, normalized=1, scale=2.5)
    assert reference.outputs(problem, reference.inputs(problem, 1))["expert_weights"].sum() == pytest.approx(2.5)


@pytest.mark.parametrize("router", ["F32", "Q8_0"])
@pytest.mark.parametrize("seed", range(4))
def test_random_inputs_choose_by_a_margin(router, seed):
    """Also where more experts than random matrices have distinct rows would tie."""
    problem = Moe(256, 32, 300, 8, router, "Q4_0", "Q4_0", "Q4_0", bias=seed % 2)
    given = reference.inputs(problem, seed)
    logits = formats.get(router).dequantize(given.weights["router"].raw).double().numpy() @ normed(given, 256)
    if problem.bias:
        logits = logits + given.buffers["router_bias"][:300]
    logits = np.sort(logits)[::-1]
    assert logits[7] - logits[8] > reference.APART
    assert len(np.unique(logits)) == 300


def normed(given: Inputs, hidden: int) -> np.ndarray:
    x = given.buffers["x"][:hidden].astype(float)
    return x / np.sqrt(np.mean(x * x) + given.buffers["eps"][0]) * given.buffers["norm"][:hidden]


def test_a_token_reads_its_own_experts_only():
    """Qwen3-30B-A3B's sizes: 8 of 128 experts; the work follows `used`, whatever `experts` is."""
    sizes = (2048, 768, 128, 8, "F32", "Q4_K", "Q4_K", "Q6_K")
    work = registry.get("moe").work(Moe(*sizes))
    row = formats.get("Q4_K").row_bytes(2048)
    expert = 2 * 768 * row + 2048 * formats.get("Q6_K").row_bytes(768)
    assert work.bytes == 8 * expert + 128 * 2048 * 4 + 3 * 2048 * 4
    assert work.ops == 2 * 2048 * (8 * 3 * 768 + 128)
    more = registry.get("moe").work(Moe(2048, 768, 256, 8, *sizes[4:]))
    assert more.bytes - work.bytes == 128 * 2048 * 4


def test_a_shared_expert_and_its_gate_count():
    plain, shared = Moe(64, 32, 6, 3, "F32", "Q8_0", "Q8_0", "Q8_0"), PROBLEMS[4]
    more = registry.get("moe").work(shared).bytes - registry.get("moe").work(plain).bytes
    assert more == 2 * 64 * formats.get("Q8_0").row_bytes(64) + 64 * formats.get("Q4_0").row_bytes(64) + 4 * 64
    assert [m.name for m in plain.matrices] == ["router", "gate", "up", "down"]
    assert [m.name for m in shared.matrices][4:] == ["shared_gate", "shared_up", "shared_down", "shared_router"]


def test_a_key_names_traits_only_where_they_are_there():
    plain = Moe(2048, 768, 128, 8, "F32", "Q4_K", "Q4_K", "Q6_K")
    assert plain.key == (
        "moe:hidden=2048,ffn=768,experts=128,used=8,router_format=F32,gate_format=Q4_K,up_format=Q4_K,"
        "down_format=Q6_K,activation=int16"
    )
    for problem in PROBLEMS:
        assert registry.parse_problem(problem.key) == problem == given_problem.parse(problem.key)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("used=9", "used=9 experts a token are more than experts=8"),
        ("used=0", "used=0 is not a number from 1"),
        ("experts=99999", "experts=99999 is not a number from 1"),
        ("gate_function=relu", "moe: gate_function='relu' is not one of silu, gelu, swiglu_oai"),
        ("routing=top", "moe: routing='top' is not one of softmax"),
        ("shared_ffn=32", "a shared expert has all of shared_ffn"),
        ("shared_up_format=Q4_0", "a shared expert has all of shared_ffn"),
        ("beside=1", "moe: beside=1 needs post_norm=1 and shared_ffn"),
        ("out_scale=1", "moe: out_scale=1 needs post_norm=1"),
        ("shared_gated=1", "shared_gated=1 without a shared expert"),
        ("ffn=48", "rows of 48 elements do not divide by 32"),
    ],
)
def test_what_cannot_be_is_one_line(change, complaint):
    given = dict(part.split("=") for part in PROBLEMS[0].key.removeprefix("moe:").split(","))
    given |= dict([change.split("=")])
    with pytest.raises(ValueError, match="^" + complaint) as raised:
        given_problem.parse("moe:" + ",".join(f"{name}={value}" for name, value in given.items()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", GATE_FUNCTIONS)
def test_gates_are_finite_far_out(function):
    gate = reference.gate(Moe(64, 32, 8, 2, "F32", "Q8_0", "Q8_0", "Q8_0", gate_function=function))
    g, u = (torch.tensor([-50.0, 0.0, 50.0]).double().numpy() for _ in range(2))
    assert np.isfinite(gate(g, u)).all() and gate(g, u)[1] == 0
