"""Every GPU template in Triton's interpreter against the float64 reference: formats, odd sizes, configurations.

A program's tile takes 50 ms here: problems have few rows, and configurations drawn at random few tiles.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from some_formats import few

from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED, Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.device import Device
from kernel_templates.formats import FORMATS
from kernel_templates.space import Config

ANY = Device("cuda", "any", "9.0", 8, 1 << 34)
DRAWN, MOST_TILES = 3, 12


def relative_error(key: str, config: Config, seed: int = 0) -> float:
    """The largest ||out - ref|| / ||ref|| over the outputs, from poisoned buffers; inf for NaN."""
    problem = registry.parse_problem(key)
    operation, template = registry.get(problem.op), registry.cuda(problem.op)
    inputs = operation.inputs(problem, seed)
    buffers = template.prepare(problem, inputs, "cpu")
    packed = template.pack(problem, config, inputs.weights, "cpu")
    for launch in template.launches(problem, config, packed, buffers):
        launch.run(INTERPRETED)
    got, worst = template.collect(problem, buffers), 0.0
    for name, wanted in operation.reference(problem, inputs).items():
        wanted = np.asarray(wanted, np.float64).ravel()
        error = np.linalg.norm(got[name].ravel()[: wanted.size].astype(np.float64) - wanted) / np.linalg.norm(wanted)
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def tolerance(key: str) -> float:
    problem = registry.parse_problem(key)
    return registry.get(problem.op).tolerance(problem)


def space(key: str):
    return registry.cuda_space(registry.parse_problem(key), ANY)


def cols(name: str, wanted: int) -> int:
    return -(-wanted // FORMATS[name].block) * FORMATS[name].block


def tiles(launches: list[Launch]) -> int:
    """What all programs of the products go through one after the other here."""
    products = (each for each in launches if "CHUNKS" in each.constants)
    return sum(math.prod(p.grid) * p.constants["CHUNKS"] * p.constants["STEPS"] for p in products)


def drawn(key: str) -> Iterator[Config]:
    """Valid configurations that the interpreter is soon through with, a few of those that there are."""
    problem = registry.parse_problem(key)
    template, inputs = registry.cuda(problem.op), registry.get(problem.op).inputs(problem, 0)
    buffers, packed = template.prepare(problem, inputs, "cpu"), template.pack(problem, {}, inputs.weights, "cpu")
    rng, found, cuda_space = random.Random(key), 0, space(key)
    while found < DRAWN:
        config = Config({p.name: rng.choice(p.values) for p in cuda_space.parameters})
        valid = cuda_space.broken(config) is None
        if valid and tiles(template.launches(problem, config, packed, buffers)) <= MOST_TILES:
            found += 1
            yield config


@pytest.mark.parametrize("name", few())
@pytest.mark.parametrize("activation", ["int16", "int8"])
def test_every_format(name, activation):
    """With int16 far closer than the tolerance, which int8 needs."""
    key = f"matvec:rows=32,cols={cols(name, 96)},format={name},activation={activation}"
    assert relative_error(key, space(key).default) <= (2e-5 if activation == "int16" else tolerance(key))


@pytest.mark.parametrize("key", [
    "matvec:rows=32,cols=576,format=Q4_1,activation=int16",
    "matvec:rows=64,cols=96,format=Q8_0,activation=int16",
    "ffn:hidden=96,ffn=64,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16",
    "ffn:hidden=32,ffn=64,gate_format=Q8_0,up_format=F16,down_format=BF16,activation=int16",
    "head:vocab=101,hidden=96,format=Q8_0,activation=int16",
    "head:vocab=53,hidden=256,format=Q6_K,activation=int8",
    "norm_qkv_rope:hidden=96,heads=3,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=0,q_format=Q4_1,k_format=Q4_1,v_format=Q4_1,activation=int16",
    "norm_qkv_rope:hidden=32,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,q_format=Q4_0,k_format=Q4_0,v_format=Q8_0,activation=int16",
    "norm_qkv_rope:hidden=96,heads=3,kv_heads=1,head_dim=32,rope_dim=16,qk_norm=1,q_format=Q4_0,k_format=Q4_0,v_format=Q8_0,activation=int16,qkv_bias=1",
    "layer:hidden=96,heads=3,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=0,ffn=32,q_format=Q4_1,k_format=Q4_1,v_format=Q4_1,out_format=Q4_1,gate_format=Q4_1,up_format=Q4_1,down_format=Q4_1,activation=int16,context=40",
    "layer:hidden=32,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,ffn=64,q_format=Q4_0,k_format=Q4_0,v_format=Q8_0,out_format=Q4_0,gate_format=Q4_0,up_format=Q4_0,down_format=BF16,activation=int16,context=5",
    "attention:heads=4,kv_heads=2,head_dim=32,context=50,output_gate=1",
    "norm_qkv_rope:hidden=32,heads=2,kv_heads=1,head_dim=32,rope_dim=16,qk_norm=1,q_format=Q8_0,k_format=Q8_0,v_format=Q8_0,activation=int16,output_gate=1",
    "norm_qkvz:hidden=32,heads=4,key_heads=2,head_dim=8,qkv_format=Q8_0,z_format=Q4_0,gates_format=F32,activation=int16",
    "delta_layer:hidden=32,heads=2,key_heads=1,head_dim=16,kernel=4,ffn=32,qkv_format=Q8_0,z_format=Q8_0,gates_format=Q8_0,out_format=Q8_0,gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16",
    "delta_layer:hidden=32,heads=2,key_heads=1,head_dim=16,kernel=4,ffn=32,qkv_format=Q8_0,z_format=Q8_0,gates_format=Q8_0,out_format=Q8_0,gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16,experts=4,used=2,router_format=F32,normalized=1,shared_ffn=32,shared_gate_format=Q8_0,shared_up_format=Q8_0,shared_down_format=Q8_0,shared_gated=1",
    "matvec:rows=160,cols=96,format=Q4_0,activation=int16,post_norm=1",
    "matvec:rows=32,cols=96,format=Q8_0,activation=int8,post_norm=1",
    "matvec:rows=64,cols=96,format=Q8_0,activation=int16,bias=1",
    "layer:hidden=96,heads=4,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=0,ffn=32,q_format=Q8_0,k_format=Q8_0,v_format=Q8_0,out_format=Q8_0,gate_format=Q4_1,up_format=Q4_1,down_format=Q4_1,activation=int16,context=40,qkv_bias=1,window=17,sinks=1,out_bias=1",
    "matvec:rows=160,cols=96,format=MXFP4,activation=int16,post_norm=1,bias=1",
    "ffn:hidden=96,ffn=64,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16,gate_function=gelu",
    "ffn:hidden=160,ffn=32,gate_format=Q8_0,up_format=F16,down_format=BF16,activation=int16,post_norm=1",
    "head:vocab=101,hidden=96,format=Q8_0,activation=int16,softcap=30.0",
    "layer:hidden=160,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,ffn=64,q_format=Q4_0,k_format=Q4_0,v_format=Q8_0,out_format=Q4_0,gate_format=Q4_0,up_format=Q4_0,down_format=BF16,activation=int16,context=5,gate_function=gelu,post_norm=1",
    "ffn:hidden=160,ffn=32,gate_format=Q8_0,up_format=F16,down_format=BF16,activation=int16,post_norm=1,out_scale=1",
    "norm_qkv_rope:hidden=96,heads=2,kv_heads=1,head_dim=64,rope_dim=64,qk_norm=1,q_format=Q8_0,k_format=Q8_0,v_format=Q8_0,activation=int16,v_norm=1",
    "norm_qkv_rope:hidden=96,heads=2,kv_heads=0,head_dim=64,rope_dim=64,qk_norm=1,q_format=Q8_0,k_format=Q8_0,v_format=Q8_0,activation=int16,v_norm=1",
    "attention:heads=2,kv_heads=1,head_dim=512,context=40,scale=1.0",
    "attention:heads=2,kv_heads=1,head_dim=512,context=700,scale=1.0",
    "input_gate:hidden=160,size=32,gate_format=Q4_0,proj_format=Q8_0,activation=int16",
    "input_gate:hidden=96,size=64,gate_format=F16,proj_format=BF16,activation=int16,out_scale=1",
    "per_layer_inputs:hidden=96,layers=3,size=32,format=BF16,activation=int16",
    "per_layer_inputs:hidden=160,layers=2,size=48,format=Q8_0,activation=int16",
])  # fmt: skip
def test_defaults_on_odd_sizes(key):
    assert relative_error(key, space(key).default) <= tolerance(key)


@pytest.mark.parametrize("key", [
    "matvec:rows=32,cols=576,format=Q4_0,activation=int16",
    "ffn:hidden=96,ffn=64,gate_format=Q4_1,up_format=Q8_0,down_format=Q4_0,activation=int16",
    "head:vocab=53,hidden=512,format=Q6_K,activation=int16",
    "head:vocab=53,hidden=96,format=Q8_0,activation=int16,softcap=30.0",
    "matvec:rows=64,cols=96,format=Q8_0,activation=int16,post_norm=1",
    "input_gate:hidden=64,size=32,gate_format=Q8_0,proj_format=Q8_0,activation=int16,out_scale=1",
    "per_layer_inputs:hidden=64,layers=2,size=32,format=F32,activation=int16",
    "norm_qkv_rope:hidden=96,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,q_format=F16,k_format=F16,v_format=Q8_0,activation=int16",
])  # fmt: skip
def test_configurations_drawn_at_random(key):
    for config in drawn(key):
        assert relative_error(key, config, seed=7) <= tolerance(key), config.key


@pytest.mark.parametrize("combine", ["last", "kernel"])
def test_gates_of_splits_that_are_joined(combine):
    key = "attention:heads=4,kv_heads=2,head_dim=32,context=50,output_gate=1"
    config = Config({**space(key).default, "tile": 16, "splits": 2, "warps": 1, "heads": 2, "combine": combine})
    assert relative_error(key, config) <= tolerance(key)


@pytest.mark.parametrize("finish", ["attention", "kernel"])
def test_a_layer_with_a_bias_a_window_and_a_soft_cap(finish):
    key = (
        "layer:hidden=32,heads=2,kv_heads=1,head_dim=48,rope_dim=16,qk_norm=0,ffn=32,q_format=Q8_0,k_format=Q8_0,"
        "v_format=F16,out_format=F16,gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16,context=40,"
        "qkv_bias=1,window=19,softcap=5.0,scale=0.3"
    )
    config = Config({**space(key).default, "finish": finish})
    assert relative_error(key, config) <= tolerance(key)


@pytest.mark.parametrize("gate", [0, 1])
def test_a_layer_whose_heads_are_finished_by_their_own_kernel(gate):
    key = (
        "layer:hidden=32,heads=2,kv_heads=1,head_dim=32,rope_dim=16,qk_norm=1,ffn=32,q_format=Q8_0,k_format=Q8_0,"
        "v_format=Q8_0,out_format=Q8_0,gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16,context=40,"
        f"output_gate={gate}"
    )
    config = Config({**space(key).default, "finish": "kernel"})
    assert relative_error(key, config) <= tolerance(key)


def run(key: str) -> dict:
    """The buffers after the default configuration has run once."""
    problem = registry.parse_problem(key)
    template, inputs = registry.cuda(problem.op), registry.get(problem.op).inputs(problem, 1)
    buffers, config = template.prepare(problem, inputs, "cpu"), space(key).default
    for launch in template.launches(problem, config, template.pack(problem, config, inputs.weights, "cpu"), buffers):
        launch.run(INTERPRETED)
    return buffers


@pytest.mark.parametrize("cap", ["", ",softcap=2.0"])
def test_the_head_keeps_the_largest_logit_that_it_has_written(cap):
    """What sampling calls the peak is the largest of the capped logits, else all its distances would be off."""
    buffers = run("head:vocab=101,hidden=96,format=Q8_0,activation=int16" + cap)
    logits, best = buffers["logits"], buffers["best_value"].nan_to_num(-torch.inf)
    assert best.max() == logits.max() and buffers["best_id"][best.argmax()] == logits.argmax()
    assert not cap or logits.abs().max() <= 2.0


@pytest.mark.parametrize("hidden", [160, 96])
@pytest.mark.parametrize("trait", ["", ",post_norm=1"])
def test_the_next_kernel_finds_x_quantized_with_its_squares(hidden, trait):
    """A post norm leaves what the product leaves without one. 160 rows: of the second program a part."""
    x = run(f"matvec:rows={hidden},cols=64,format=Q8_0,activation=int16{trait}")["out"]
    wanted = Vector.allocate(hidden, "cpu")
    wanted.fill(x.values)
    torch.testing.assert_close(x.squares, wanted.squares)
    torch.testing.assert_close(x.scale, wanted.scale)
    steps = wanted.scale.repeat_interleave(8)
    assert ((x.quantized() - wanted.quantized()).abs() <= 1.01 * steps).all()


def test_a_wide_post_norm_sums_its_squares_in_several_rounds(monkeypatch):
    monkeypatch.setattr("kernel_templates.cuda.post_norm.PARTS", 8)
    key = "matvec:rows=160,cols=32,format=F32,activation=int16,post_norm=1"
    assert relative_error(key, space(key).default) <= 1e-6


@pytest.mark.parametrize(("key", "changes"), [
    ("matvec:rows=32,cols=2048,format=Q4_0,activation=int16", {"units": 64, "warps": 8, "each": 4, "ahead": 1}),
    ("matvec:rows=32,cols=2048,format=Q8_0,activation=int16", {"units": 128, "warps": 4, "each": 8, "ahead": 1}),
    ("head:vocab=21,hidden=2048,format=Q4_0,activation=int16", {"units": 64, "warps": 4, "each": 2, "ahead": 1}),
    pytest.param(
        "ffn:hidden=2048,ffn=32,gate_format=Q4_0,up_format=Q4_0,down_format=Q4_0,activation=int16",
        {"gate_up_units": 64, "gate_up_warps": 8, "gate_up_each": 2, "gate_up_ahead": 2}, marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_rows_that_lie_across_warps(key, changes):
    config = Config({**space(key).default, **changes})
    assert space(key).broken(config) is None
    assert relative_error(key, config) <= 1e-4
