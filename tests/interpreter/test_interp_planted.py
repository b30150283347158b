"""Every GPU template's proof refuses planted mistakes, in Triton's interpreter."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.device import Device
from kernel_templates.verify import WrongResult, verify

sys.path.append(str(Path(__file__).parent.parent / "kernel_templates"))
import planted
import planted_delta
import planted_experts

ANY = Device("cuda", "any", "9.0", 8, 1 << 34)
QKV = "norm_qkv_rope:hidden=96,heads=2,kv_heads=1,head_dim=32,rope_dim=32,qk_norm=1,q_format=Q4_0,k_format=Q4_0,"
TRAITS = [
    "matvec:rows=160,cols=96,format=Q8_0,activation=int16,post_norm=1",
    "ffn:hidden=96,ffn=64,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16,gate_function=gelu,"
    "post_norm=1",
    "head:vocab=53,hidden=96,format=Q8_0,activation=int16,softcap=30.0",
]


@pytest.mark.parametrize("key", [
    "matvec:rows=32,cols=576,format=Q4_1,activation=int16",
    "matvec:rows=32,cols=256,format=Q6_K,activation=int16",
    "head:vocab=53,hidden=96,format=Q8_0,activation=int16",
    "ffn:hidden=96,ffn=64,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16",
    QKV + "v_format=Q8_0,activation=int16",
    QKV + "v_format=Q8_0,activation=int16,qkv_bias=1",
    "attention:heads=4,kv_heads=2,head_dim=32,context=40",
    "attention:heads=4,kv_heads=2,head_dim=32,context=40,window=17,softcap=20.0,scale=0.2",
    pytest.param(
        "paged_attention:sequences=2,tokens=1,heads=4,kv_heads=2,head_dim=32,context=130", marks=pytest.mark.slow
    ),
    "paged_attention:sequences=1,tokens=9,heads=2,kv_heads=1,head_dim=32,context=90,window=70,softcap=20.0,scale=0.2",
    "matmul:rows=24,cols=288,format=Q4_1,tokens=3",
    "matmul:rows=40,cols=256,format=Q6_K,tokens=16",
    "matmul:rows=32,cols=160,format=Q8_0,tokens=3,gate=gelu",
    "matmul:rows=48,cols=64,format=BF16,tokens=5,gate=silu",
    *TRAITS,
])  # fmt: skip
def test_a_mistake_is_refused(key):
    problem = registry.parse_problem(key)
    operation, template = registry.get(problem.op), registry.cuda(problem.op)
    config, limit = registry.cuda_space(problem, ANY).default, operation.tolerance(problem)
    given = operation.inputs(problem, 3)
    expected = operation.reference(problem, given)

    def run(weights, kernel=problem, inputs=given) -> dict[str, np.ndarray]:
        buffers = template.prepare(kernel, inputs, "cpu")
        packed = template.pack(kernel, config, weights, "cpu")
        for launch in template.launches(kernel, config, packed, buffers):
            launch.run(INTERPRETED)
        return {name: np.asarray(value) for name, value in template.collect(kernel, buffers).items()}

    right = run(given.weights)
    verify(right, expected, limit)
    for what, weights in planted.wrong_weights(given):
        with pytest.raises(WrongResult):
            verify(run(weights), expected, limit)
            pytest.fail(what)
    for what, other in planted.wrong_traits(problem):
        with pytest.raises(WrongResult):
            verify(run(given.weights, kernel=other), expected, limit)
            pytest.fail(what)
    for what, buffers in planted.wrong_norms(given):
        with pytest.raises(WrongResult):
            verify(run(given.weights, inputs=replace(given, buffers=buffers)), expected, limit)
            pytest.fail(what)
    for what, buffers in planted.wrong_rows(given):
        with pytest.raises(WrongResult):
            verify(run(given.weights, inputs=replace(given, buffers=buffers)), expected, limit)
            pytest.fail(what)
    for what, outputs in planted.wrong_outputs(problem, right, {n: expected[n] for n in right if n in expected}):
        with pytest.raises(WrongResult):
            verify(outputs, expected, limit)
            pytest.fail(what)


MOE = "moe:hidden=64,ffn=32,experts=4,used=2,router_format=F32,"
EXPERTS = [
    MOE + "gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16,normalized=1",
    pytest.param(
        MOE + "gate_format=MXFP4,up_format=MXFP4,down_format=MXFP4,activation=int16,gate_function=swiglu_oai,"
        "routing=softmax_of_chosen,bias=1", marks=pytest.mark.slow,
    ),
    "grouped_matmul:rows=32,cols=64,format=Q4_0,experts=3,used=2,tokens=3",
    "grouped_matmul:rows=64,cols=64,format=Q8_0,experts=3,used=2,tokens=2,gate=silu",
    "gated_delta:heads=2,key_heads=1,head_dim=16,kernel=4",
    pytest.param("gated_delta:heads=2,key_heads=1,head_dim=16,kernel=4,tokens=20", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("key", EXPERTS)
def test_a_mistake_of_experts_or_of_delta_nets_is_refused(key):
    problem = registry.parse_problem(key)
    operation, template = registry.get(problem.op), registry.cuda(problem.op)
    config, limit = registry.cuda_space(problem, ANY).default, operation.tolerance_on("cuda", problem)
    given = operation.inputs(problem, 3)
    expected = operation.reference(problem, given)

    def run(inputs, kernel=problem) -> dict[str, np.ndarray]:
        buffers = template.prepare(kernel, inputs, "cpu")
        packed = template.pack(kernel, config, inputs.weights, "cpu")
        for launch in template.launches(kernel, config, packed, buffers):
            launch.run(INTERPRETED)
        return {name: np.asarray(value) for name, value in template.collect(kernel, buffers).items()}

    def refused(what, outputs) -> None:
        with pytest.raises(WrongResult):
            verify(outputs, expected, limit)
            pytest.fail(what)

    right = run(given)
    verify(right, expected, limit)
    mistakes = planted_delta if problem.op == "gated_delta" else planted_experts
    for what, inputs in mistakes.wrong_inputs(problem, given):
        refused(what, run(inputs))
    for what, other in planted_experts.wrong_traits(problem) if problem.op != "gated_delta" else ():
        refused(what, run(given, kernel=other))
    for what, outputs in planted.wrong_outputs(problem, right, {n: expected[n] for n in right if n in expected}):
        refused(what, outputs)
