"""A mixture's kernels compiled for chips that are not here, in their default configurations: what the code does.

Small shapes, since compiling takes longer the longer a row is; those of published models are among the slow tests.
"""

import os
import re

import pytest
import torch
from compiled_once import cross_compile

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from test_cuda_compiled_product import wide_loads

from kernel_templates import random_inputs, registry
from kernel_templates.cuda.launch import Launch
from kernel_templates.device import Device
from kernel_templates.moe import beside, choose, rows
from kernel_templates.moe.problem import Moe
from kernel_templates.space import Config

CAPABILITIES = (75, 90, *(pytest.param(other, marks=pytest.mark.slow) for other in (80, 120)))
SMALL = (
    "moe:hidden=512,ffn=256,experts=16,used=2,router_format=F32,gate_format={0},up_format={0},down_format={0},"
    "activation=int16"
)
SHARED = ",shared_ffn=256,shared_gate_format={0},shared_up_format={0},shared_down_format={0},shared_gated=1"
QWEN3_30B = (
    "moe:hidden=2048,ffn=768,experts=128,used=8,router_format=F32,gate_format=Q4_K,up_format=Q4_K,down_format=Q6_K,"
    "activation=int16,normalized=1"
)
QWEN35_35B = (
    "moe:hidden=2048,ffn=512,experts=256,used=8,router_format=F32,gate_format=Q4_K,up_format=Q4_K,down_format=Q6_K,"
    "activation=int16,normalized=1,shared_ffn=512,shared_gate_format=Q4_K,shared_up_format=Q4_K,"
    "shared_down_format=Q6_K,shared_gated=1"
)
GPT_OSS_20B = (
    "moe:hidden=2880,ffn=2880,experts=32,used=4,router_format=F32,gate_format=MXFP4,up_format=MXFP4,down_format=MXFP4,"
    "activation=int16,gate_function=swiglu_oai,routing=softmax_of_chosen,bias=1"
)
BESIDE = ",gate_function=gelu,normalized=1,post_norm=1,beside=1,out_scale=1"
GEMMA4_26B = (
    "moe:hidden=2816,ffn=704,experts=128,used=8,router_format=F32,gate_format=Q4_K,up_format=Q4_K,down_format={0},"
    "activation=int16,shared_ffn=2112,shared_gate_format=Q4_K,shared_up_format=Q4_K,shared_down_format={0}" + BESIDE
)
GROUPED = "grouped_matmul:rows={0},cols={1},format={2},experts={3},used={4},tokens={5}"


def launches(key: str, capability: int, **changes) -> list[Launch]:
    """In the default configuration with changes; tensors have shapes only, since nothing runs."""
    problem = registry.parse_problem(key)
    device = Device("cuda", "any", f"{capability // 10}.{capability % 10}", 132, 80 << 30)
    template, config = registry.cuda(problem.op), registry.cuda_space(problem, device).default
    config = Config({**config, **changes})
    with random_inputs.shapes_only():
        inputs = registry.get(problem.op).inputs(problem, 0)
    packed = template.pack(problem, config, inputs.weights, "meta")
    return template.launches(problem, config, packed, template.prepare(problem, inputs, "meta"))


def check(launch: Launch, capability: int, waits: int = 1) -> str:
    """The kernel's PTX: nothing spilled, and as many waits as there are ways through it."""
    code = cross_compile(launch, capability)
    assert code.spills == 0, (launch.name, code.resources)
    assert code.ptx.count("griddepcontrol.wait") == waits * (capability >= 90), launch.name
    assert code.ptx.count("griddepcontrol.launch_dependents") == waits * (capability >= 90), launch.name
    return code.ptx


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_one_token_on_every_generation(capability: int) -> None:
    made = launches(SMALL.format("Q4_0"), capability)
    assert [each.name for each in made] == ["router", "gate_up", "down"]
    apart = launches(SMALL.format("Q4_0"), capability, choose="kernel")
    assert [each.name for each in apart] == ["router", "choose", "gate_up", "down"]
    for launch in (*made, *apart[1:]):
        check(launch, capability)


@pytest.mark.parametrize(
    "name", ["Q4_K", "MXFP4", *(pytest.param(other, marks=pytest.mark.slow) for other in ("Q8_0", "Q6_K", "F16"))]
)
def test_weights_are_asked_for_as_soon_as_the_choice_is_known(name: str) -> None:
    """Gate's and up's behind the wait for the choice; down's before the wait for what gate and up give. That needs the
    choice, or the logits, to be in memory when down starts: so gate and up let it start after their wait, never
    before."""
    for where in ("kernel", "readers"):
        gate_up, down = launches(SMALL.format(name), 90, choose=where)[-2:]
        before, after = check(gate_up, 90).split("griddepcontrol.wait")
        assert "launch_dependents" not in before and "st.global" not in before
        assert not re.search(r"\bld\.global", before), "no weight is known yet"
        assert wide_loads(after) >= gate_up.constants["CHUNKS"] * gate_up.constants["EACH"]
        before, after = check(down, 90).split("griddepcontrol.wait")
        assert wide_loads(before) >= down.constants["AHEAD"] * down.constants["EACH"]
        assert "st.global" not in before


@pytest.mark.parametrize("experts", [16, pytest.param(100, marks=pytest.mark.slow)])
def test_each_warp_chooses_for_itself(experts: int) -> None:
    """By reductions over its lanes, an instruction each. Warps that met in shared memory would wait for each other."""
    key = SMALL.format("Q4_0").replace("experts=16", f"experts={experts}")
    for here, apart in zip(launches(key, 90)[1:], launches(key, 90, choose="kernel")[2:], strict=True):
        assert here.warps > 1
        chosen, read = cross_compile(here, 90), cross_compile(apart, 90)
        assert "redux.sync" in chosen.ptx and "redux.sync" not in read.ptx
        assert chosen.ptx.count("bar.sync") == read.ptx.count("bar.sync")


def test_a_shared_expert_s_weights_wait_for_nothing() -> None:
    _, gate_up, down = launches((SMALL + SHARED).format("Q8_0"), 90)
    ptx = check(gate_up, 90, waits=2)
    assert any(wide_loads(part) for part in _before_waits(ptx)), "the shared expert's tiles are on their way"
    check(down, 90)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_network_beside_the_experts(capability: int) -> None:
    """Its gate and up in the experts' kernel, its down in one of its own; one more for the norms."""
    made = launches((SMALL + SHARED).replace(",shared_gated=1", "").format("Q4_0") + BESIDE, capability)
    assert [each.name for each in made] == ["router", "gate_up", "down", "shared_down", "down_norms"]
    for launch in made:
        check(launch, capability, waits=2 if launch.name == "gate_up" else 1)


def _before_waits(ptx: str) -> list[str]:
    """Of each wait the text since the label before it."""
    return [part.rsplit("$L__BB", 1)[-1] for part in ptx.split("griddepcontrol.wait")[:-1]]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("rows_of", "tokens", "traits"), [(512, 8, ",gate=silu"), (256, 512, ",x_of=pair")])
def test_products_of_experts_on_every_generation(capability: int, rows_of: int, tokens: int, traits: str) -> None:
    (launch,) = launches(GROUPED.format(rows_of, 256, "Q4_0", 8, 2, tokens) + traits, capability)
    ptx = check(launch, capability)
    if capability == 90:
        assert ("wgmma" in ptx) == (tokens == 512), "few pairs of an expert are bound by reading its weights"
        assert not re.search(r"\bld\.global", ptx.split("griddepcontrol.wait")[0])


def test_experts_of_floats() -> None:
    for capability in (75, 90):
        (launch,) = launches(GROUPED.format(128, 64, "BF16", 8, 2, 64) + ",gate=swiglu_oai,bias=1", capability)
        check(launch, capability)


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("shared", [False, True])
def test_what_stands_around_the_products(capability: int, shared: bool) -> None:
    own = {f"shared_{name}_format": "Q8_0" for name in ("gate", "up", "down")} if shared else {}
    problem = Moe(512, 256, 16, 2, *["F32"] * 4, bias=1, shared_ffn=64 * shared, shared_gated=int(shared), **own)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    made = rows.allocate([problem], 64, "meta")
    ids, weights = made["expert_ids"], made["expert_weights"]
    for launch in (
        rows.router_launch(
            problem, empty(64, 512, dtype=torch.float16), empty(16 + shared, 512), empty(16), made["router_logits"], 64
        ),
        choose.launch(problem, made["router_logits"], ids, weights, 64, empty(64, dtype=torch.int32)),
        rows.group_launch(16, ids, made["offsets"], made["pairs"]),
        rows.combine_launch(
            problem, empty(128, 512), ids, weights, empty(16 * 512), empty(64, 512) if shared else None,
            empty(64, 512), 16.0,
        ),
        beside.rows_launch(empty(64, 512), empty(64, 512), (empty(512), empty(512)), 1e-6, 16.0),
    ):  # fmt: skip
        check(launch, capability)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", [QWEN3_30B, QWEN35_35B, GPT_OSS_20B, *(GEMMA4_26B.format(form) for form in ("Q5_0", "Q8_0"))]
)
def test_published_models_stay_in_registers(key: str) -> None:
    for launch in launches(key, 90):
        check(launch, 90, waits=2 if launch.name == "gate_up" and "shared" in key else 1)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [2, 32, 2048])
def test_published_models_over_many_tokens_stay_in_registers(tokens: int) -> None:
    qwen, qwen35, oss = ("128", "8"), ("256", "8"), ("32", "4")
    for key in (
        GROUPED.format(1536, 2048, "Q4_K", *qwen, tokens) + ",gate=silu",
        GROUPED.format(2048, 768, "Q6_K", *qwen, tokens) + ",x_of=pair",
        GROUPED.format(1024, 2048, "Q4_K", *qwen35, tokens) + ",gate=silu",
        GROUPED.format(2048, 512, "Q6_K", *qwen35, tokens) + ",x_of=pair",
        GROUPED.format(5760, 2880, "MXFP4", *oss, tokens) + ",gate=swiglu_oai,bias=1",
        GROUPED.format(2880, 2880, "MXFP4", *oss, tokens) + ",x_of=pair",
    ):
        for launch in launches(key, 90):
            check(launch, 90)
