"""The mixture of experts in Triton's interpreter against the float64 reference: formats, traits, odd sizes."""

import math

import numpy as np
import pytest
import torch
from test_interp_operations import drawn, relative_error, space, tolerance

from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.moe import choose, rows
from kernel_templates.moe.problem import ROUTINGS, Moe
from kernel_templates.moe.reference import choose as choose_in_float64
from kernel_templates.space import Config

KEY = "moe:hidden={0},ffn={1},experts={2},used={3},router_format={4},gate_format={5},up_format={6},down_format={7},"


def key(*fields, activation: str = "int16", **traits) -> str:
    return KEY.format(*fields) + f"activation={activation}" + "".join(f",{k}={v}" for k, v in traits.items())


SHARED = {"shared_ffn": 64, "shared_gate_format": "Q8_0", "shared_up_format": "Q8_0", "shared_down_format": "Q8_0"}
BESIDE = {"normalized": 1, "post_norm": 1, "beside": 1}
GPT_OSS = {"gate_function": "swiglu_oai", "routing": "softmax_of_chosen", "bias": 1}


@pytest.mark.parametrize("name", [
    "Q4_0", "Q4_K", "Q6_K", "MXFP4", "F16",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("Q8_0", "BF16", "Q3_K")),
])  # fmt: skip
def test_every_kind_of_format(name):
    """With int16 far closer than the tolerance, which int8 needs. Programs of many rows, since a tile takes long."""
    size = 256 if name.endswith("_K") else 64
    asked = key(size, size, 3, 2, "F32", name, name, name, normalized=1)
    few = {f"{part}_{name}": value for part in ("gate_up", "down") for name, value in (("each", 8), ("ahead", 1))}
    config = Config({**space(asked).default, **few})
    assert space(asked).broken(config) is None
    assert relative_error(asked, config) <= 1e-4


@pytest.mark.parametrize("asked", [
    key(96, 32, 5, 3, "F32", "Q4_0", "Q8_0", "Q4_1"),
    key(96, 32, 5, 1, "F16", "Q8_0", "Q8_0", "F16", gate_function="gelu"),
    key(64, 32, 6, 3, "F32", "MXFP4", "MXFP4", "MXFP4", **GPT_OSS),
    key(160, 32, 8, 2, "BF16", "Q8_0", "Q8_0", "Q8_0", routing="sigmoid", normalized=1, scale=2.5, post_norm=1),
    key(64, 32, 8, 2, "F32", "Q8_0", "Q8_0", "Q8_0", **SHARED),
    pytest.param(key(64, 96, 8, 3, "F32", "Q4_0", "Q4_0", "Q4_0", **SHARED, shared_gated=1), marks=pytest.mark.slow),
    key(64, 32, 4, 4, "F32", "Q8_0", "Q8_0", "Q8_0", activation="int8"),
    key(96, 32, 5, 3, "F32", "Q8_0", "Q8_0", "Q4_0", **SHARED, **BESIDE),
    key(64, 32, 5, 2, "Q8_0", "F16", "F16", "F16", **SHARED, **BESIDE, gate_function="gelu", out_scale=1),
])  # fmt: skip
def test_traits_and_odd_sizes(asked):
    assert relative_error(asked, space(asked).default) <= tolerance(asked)


@pytest.mark.parametrize("asked", [
    key(64, 32, 4, 2, "F32", "Q4_0", "Q4_0", "Q8_0"),
    *(pytest.param(slow, marks=pytest.mark.slow) for slow in (
        key(96, 32, 4, 2, "F32", "Q8_0", "Q4_0", "F16", **SHARED),
        key(64, 96, 4, 2, "F32", "MXFP4", "MXFP4", "MXFP4", **GPT_OSS, post_norm=1),
    )),
])  # fmt: skip
def test_configurations_drawn_at_random(asked):
    for config in drawn(asked):
        assert relative_error(asked, config, seed=7) <= tolerance(asked), config.key


LAYER = (
    "layer:hidden=64,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,ffn=32,q_format=Q8_0,k_format=Q8_0,"
    "v_format=Q8_0,out_format=Q8_0,gate_format={0},up_format={0},down_format={0},activation=int16,context=5,experts=4,"
    "used=2,router_format=F32"
)

GEMMA4 = (
    ",scale=1.0,gate_function=gelu,post_norm=1,normalized=1,shared_ffn=64,shared_gate_format=Q8_0,"
    "shared_up_format=Q8_0,shared_down_format=Q8_0,beside=1,out_scale=1"
)


@pytest.mark.parametrize("asked", [
    LAYER.format("Q4_0") + ",normalized=1",
    pytest.param(
        LAYER.format("MXFP4") + ",gate_function=swiglu_oai,routing=softmax_of_chosen,expert_bias=1",
        marks=pytest.mark.slow,
    ),
    LAYER.format("Q4_0") + GEMMA4,
    pytest.param(
        LAYER.format("Q8_0") + GEMMA4 + ",layer_input=32,input_gate_format=Q8_0,input_proj_format=Q8_0",
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_a_layer_with_a_mixture(asked):
    assert relative_error(asked, space(asked).default) <= tolerance(asked)


def chosen(logits: list[list[float]], used: int, **traits) -> tuple[list, list]:
    """ids and weights of several tokens."""
    problem = Moe(32, 32, len(logits[0]) - traits.get("shared_gated", 0), used, *["F32"] * 4, **traits)
    buffers = rows.allocate([problem], len(logits), "cpu")
    buffers["router_logits"].copy_(torch.tensor(logits).flatten())
    names = ("router_logits", "expert_ids", "expert_weights")
    choose.launch(problem, *(buffers[name] for name in names), len(logits)).run(INTERPRETED)
    return [buffers[name].view(len(logits), -1).tolist() for name in names[1:]]


def test_choices_among_more_experts_than_a_warp_has_lanes():
    """With many that are equal, so that lanes and their numbers have to agree on the lower expert."""
    few = np.random.default_rng(0).integers(-3, 4, (4, 100)).astype(np.float32)
    ids, weights = chosen(few.tolist(), 9, normalized=1)
    for token, own in enumerate(few):
        assert ids[token] == choose_in_float64(own, 9).tolist()
        powers = np.exp(own[ids[token]].astype(np.float64))
        assert weights[token] == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)


@pytest.mark.parametrize("asked", [
    key(64, 32, 40, 3, "F32", "Q8_0", "Q8_0", "Q8_0", normalized=1),
    pytest.param(key(64, 32, 6, 3, "F32", "MXFP4", "MXFP4", "MXFP4", **GPT_OSS), marks=pytest.mark.slow),
    pytest.param(key(64, 64, 40, 2, "F32", "Q4_0", "Q4_0", "Q4_0", **SHARED, shared_gated=1), marks=pytest.mark.slow),
])  # fmt: skip
def test_experts_are_the_same_whoever_chooses(asked):
    problem, results = registry.parse_problem(asked), []
    template, inputs = registry.cuda("moe"), registry.get("moe").inputs(problem, 5)
    for where in ("readers", "kernel"):
        config, buffers = {**space(asked).default, "choose": where}, template.prepare(problem, inputs, "cpu")
        made = template.launches(problem, config, template.pack(problem, config, inputs.weights, "cpu"), buffers)
        assert ("choose" in [launch.name for launch in made]) == (where == "kernel")
        for launch in made:
            launch.run(INTERPRETED)
        results.append([buffers["x"].values, buffers["expert_ids"], buffers["expert_weights"]])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_of_equal_logits_the_lower_expert_comes_first():
    ids, weights = chosen([[1.0, 2.0, 2.0, 1.0], [0.0, -0.0, 0.0, -0.0], [-5.0, -5.0, -7.0, 3.0]], 3, normalized=1)
    assert ids == [[1, 2, 0], [0, 1, 2], [3, 0, 1]]
    assert weights[1] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_logits_that_are_not_finite_choose_experts_that_there_are(routing):
    """Else an address would be made of them; the token is broken, and says so."""
    nan, inf = float("nan"), float("inf")
    ids, weights = chosen([[nan] * 3, [-inf] * 3, [inf, nan, -inf], [1.0, nan, 2.0]], 2, routing=routing)
    assert all(0 <= each < 3 for token in ids for each in token)
    assert all(len(set(token)) == 2 for token in ids)
    assert any(w != w for w in weights[0]) and any(w != w for w in weights[3])


def test_a_gated_shared_expert_has_the_last_weight():
    traits = {**SHARED, "shared_gated": 1}
    ids, weights = chosen([[1.0, 3.0, 2.0, 0.5]], 2, **traits)
    assert ids == [[1, 2]] and weights[0][2] == pytest.approx(1 / (1 + math.exp(-0.5)))
    _, weights = chosen([[1.0, 3.0, 2.0]], 2, **SHARED)
    assert weights[0][2] == 1.0


def test_down_is_the_same_in_every_execution_and_reads_its_own_experts_only():
    """What other experts hold may be anything; of the same choice come the same bits."""
    asked = key(64, 64, 5, 2, "F32", "Q8_0", "Q8_0", "Q8_0")
    problem, results = registry.parse_problem(asked), []
    template, inputs = registry.cuda("moe"), registry.get("moe").inputs(problem, 3)
    used = registry.get("moe").reference(problem, inputs)["expert_ids"].tolist()
    for damaged in (False, True):
        buffers = template.prepare(problem, inputs, "cpu")
        packed = template.pack(problem, {}, inputs.weights, "cpu")
        for planes in packed[1:]:
            for expert in set(range(5)) - set(used) if damaged else ():
                planes.tensors[1][expert * 64 : (expert + 1) * 64] = float("nan")
        for launch in template.launches(problem, space(asked).default, packed, buffers):
            launch.run(INTERPRETED)
        results.append(buffers["x"].values.clone())
    assert torch.isfinite(results[0]).all() and torch.equal(*results)
