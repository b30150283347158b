"""The product kernels compiled for chips that are not here, in their default configurations: what the code does.

Every format is compiled for a generation whose kernels wait for each other, as the smallest operation; two formats,
and in Q4_0 every operation, for every generation.
"""

import os
import re

import pytest
from compiled_once import cross_compile
from some_formats import few, two

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from kernel_templates import random_inputs, registry
from kernel_templates.cuda.crosscompile import Compiled
from kernel_templates.cuda.launch import Launch
from kernel_templates.device import Device

ANY = Device("cuda", "any", "9.0", 132, 80 << 30)
CAPABILITIES = (75, 80, 90, 100)
QWEN3 = {  # 0.6B
    "ffn": "hidden=1024,ffn=3072,gate_format={0},up_format={0},down_format={0},activation=int16",
    "head": "vocab=151936,hidden=1024,format={0},activation=int16",
    "norm_qkv_rope": "hidden=1024,heads=16,kv_heads=8,head_dim=128,rope_dim=128,qk_norm=1,q_format={0},k_format={0},"
    "v_format={0},activation=int16",
}
SMOLLM2 = {  # 135M, whose width is no power of two
    "matvec": "rows=576,cols=576,format={0},activation=int16",
    "ffn": "hidden=576,ffn=1536,gate_format={0},up_format={0},down_format={0},activation=int16",
    "head": "vocab=49152,hidden=576,format={0},activation=int16",
    "norm_qkv_rope": "hidden=576,heads=9,kv_heads=3,head_dim=64,rope_dim=64,qk_norm=0,q_format={0},k_format={0},"
    "v_format={0},activation=int16",
}


QWEN2 = (  # 7B
    "hidden=3584,heads=28,kv_heads=4,head_dim=128,rope_dim=128,qk_norm=0,q_format={0},k_format={0},v_format={0},"
    "activation=int16,qkv_bias=1"
)
LARGE = {  # Qwen3-8B's, and what Qwen3-1.7B has between
    "matvec": "rows=4096,cols=4096,format={0},activation=int16",
    "ffn": "hidden=4096,ffn=12288,gate_format={0},up_format={0},down_format={0},activation=int16",
    "ffn of 2048": "hidden=2048,ffn=6144,gate_format={0},up_format={0},down_format={0},activation=int16",
    "head": "vocab=151936,hidden=4096,format={0},activation=int16",
}
GEMMA3 = {  # 270M, 1B and 4B: widths that are no power of two, nor multiples of 256
    "matvec": "rows=640,cols=1024,format={0},activation=int16,post_norm=1",
    "ffn": "hidden=640,ffn=2048,gate_format={0},up_format={0},down_format={0},activation=int16,gate_function=gelu,"
    "post_norm=1",
    "ffn of 1152": "hidden=1152,ffn=6912,gate_format={0},up_format={0},down_format={0},activation=int16,"
    "gate_function=gelu,post_norm=1",
    "ffn of 2560": "hidden=2560,ffn=10240,gate_format={0},up_format={0},down_format={0},activation=int16,"
    "gate_function=gelu,post_norm=1",
    "head": "vocab=262144,hidden=640,format={0},activation=int16,softcap=30.0",
    "norm_qkv_rope": "hidden=640,heads=4,kv_heads=1,head_dim=256,rope_dim=256,qk_norm=1,q_format={0},k_format={0},"
    "v_format={0},activation=int16",
}


def launches(op: str, fields: str, name: str) -> list[Launch]:
    """In the default configuration; tensors have shapes only, since nothing runs."""
    problem = registry.parse_problem(f"{op}:{fields.format(name)}")
    template, config = registry.cuda(op), registry.cuda_space(problem, ANY).default
    with random_inputs.shapes_only():
        inputs = registry.get(op).inputs(problem, 0)
    packed = template.pack(problem, config, inputs.weights, "meta")
    return template.launches(problem, config, packed, template.prepare(problem, inputs, "meta"))


def wide_loads(ptx: str) -> int:
    """Loads of 16 bytes a thread."""
    return len(re.findall(r"ld\.global(?:\.[\w:]+)*?\.v4\.b32", ptx))


def is_good(launch: Launch, code: Compiled, capability: int) -> None:
    assert code.spills == 0, (launch.name, code.resources)
    assert code.ptx.count("griddepcontrol.wait") == (capability >= 90)
    assert code.ptx.count("griddepcontrol.launch_dependents") == (capability >= 90)
    if "CHUNKS" not in launch.constants:  # the kernels that finish heads and norm outputs have no weights
        if capability >= 90 and launch.name.endswith("_norm"):
            before, after = code.ptx.split("griddepcontrol.wait")
            assert "ld.global" in before, "the norms' weights are there before the product has ended"
            assert "st.global" not in before and "bar.sync" not in after, "one warp, which waits for no other"
        return
    c = launch.constants
    chunks = c["CHUNKS"] + c.get("UP_CHUNKS", 0)
    wide = c["TRAITS"].kind != "" or c["TRAITS"].bits & 12 > 0  # quants of 2 or 3 bits are 8 bytes a run
    assert wide_loads(code.ptx) >= wide * chunks * c["STEPS"] * c["EACH"], "weights are loaded piece by piece"
    assert ("dp4a.s32.s32" in code.ptx) == ("dp4a.s32.u32" in code.ptx) == (c["TRAITS"].kind == "")
    if capability >= 90:
        before, after = code.ptx.split("griddepcontrol.wait")
        assert wide_loads(before) == wide * c["AHEAD"] * c["EACH"], "only tiles ahead are asked for before the wait"
        assert "st.global" not in before
        assert wide_loads(after) > 0, "the vector is read after the wait"


@pytest.mark.parametrize("name", few())
def test_every_format(name: str, capability: int = 90) -> None:
    (launch,) = launches("matvec", "rows=1024,cols=2048,format={0},activation=int16", name)
    is_good(launch, cross_compile(launch, capability), capability)


@pytest.mark.parametrize("capability", [75, 80, 100])
@pytest.mark.parametrize("name", two())
def test_the_other_generations(name: str, capability: int) -> None:
    test_every_format(name, capability)


@pytest.mark.parametrize("capability", [75, 90, *(pytest.param(c, marks=pytest.mark.slow) for c in (80, 100))])
@pytest.mark.parametrize("post_norm", ["", ",post_norm=1"])
def test_a_residual_bias_is_there_before_the_product(capability: int, post_norm: str) -> None:
    fields = "rows=2880,cols=4096,format={0},activation=int16"
    plain, *_ = launches("matvec", fields + post_norm, "Q8_0")
    biased, *_ = launches("matvec", fields + post_norm + ",bias=1", "Q8_0")
    codes = [cross_compile(launch, capability) for launch in (plain, biased)]
    is_good(biased, codes[1], capability)
    loads = [code.ptx.split("griddepcontrol.wait")[0].count("ld.global") for code in codes]
    assert loads[1] == loads[0] + biased.constants["STEPS"]


def test_volta() -> None:
    (launch,) = launches("matvec", "rows=1024,cols=2048,format={0},activation=int16", "Q4_0")
    is_good(launch, cross_compile(launch, 70), 70)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("op", list(QWEN3))
def test_every_operation_on_every_generation(op: str, capability: int) -> None:
    for launch in launches(op, QWEN3[op], "Q4_0"):
        is_good(launch, cross_compile(launch, capability), capability)


@pytest.mark.parametrize(("formats", "capability"), [(("IQ4_XS", "Q5_K"), 80), (("Q4_K", "Q6_K"), 90)])
def test_values_in_another_format_share_the_kernel(formats: tuple[str, str], capability: int) -> None:
    fields = QWEN3["norm_qkv_rope"].replace("v_format={0}", f"v_format={formats[1]}")
    product, *rest = launches("norm_qkv_rope", fields, formats[0])
    assert "BELOW_TRAITS" in product.constants and not any("CHUNKS" in launch.constants for launch in rest)
    code = cross_compile(product, capability)
    assert code.spills == 0 and wide_loads(code.ptx) > 0
    assert code.ptx.count("griddepcontrol.wait") == 2 * (capability >= 90), "each program waits once, on its own way"


@pytest.mark.parametrize("capability", [90])
def test_addresses_are_not_computed_for_each_load(capability: int) -> None:
    """A load of weights costs no instruction but itself: what its address has beyond the thread's own is a number."""
    (launch,) = launches("matvec", "rows=4096,cols=4096,format={0},activation=int16", "Q4_0")
    code = cross_compile(launch, capability)
    loads = re.findall(r"LDG\.E\S*\.128 \S+ desc\[\S+\]\[(R\d+)\.64(\+\S+)?\]", code.sass)
    assert len(loads) >= 16 + 20 and len({base for base, _ in loads}) <= len(loads) // 2


@pytest.mark.parametrize("capability", [75, 90])
def test_a_bias_is_there_before_the_product(capability: int) -> None:
    """Loaded before the wait: what comes after it waits for nothing more."""
    product, finish = launches("norm_qkv_rope", QWEN2, "Q4_0")
    code = cross_compile(product, capability)
    is_good(product, code, capability)
    is_good(finish, cross_compile(finish, capability), capability)
    without, _ = launches("norm_qkv_rope", QWEN2.replace("qkv_bias=1", "qkv_bias=0"), "Q4_0")
    plain = cross_compile(without, capability)
    assert code.ptx.count("ld.global") > plain.ptx.count("ld.global")
    if capability >= 90:
        after, plain_after = (c.ptx.split("griddepcontrol.wait")[1] for c in (code, plain))
        assert after.count("ld.global") == plain_after.count("ld.global")


@pytest.mark.parametrize("op", list(SMOLLM2))
def test_widths_that_are_no_power_of_two(op: str) -> None:
    for launch in launches(op, SMOLLM2[op], "Q8_0" if op == "head" else "Q4_1"):
        is_good(launch, cross_compile(launch, 90), 90)


LARGE_IN = [  # each operation in the format that takes the most registers; formats in the smaller ones
    pytest.param(op, name, marks=[pytest.mark.slow] if op.startswith("ffn") and name in ("Q8_0", "BF16") else [])
    for op in LARGE
    for name in ("Q4_0", "Q6_K", "Q8_0", "BF16")
]


@pytest.mark.parametrize(("op", "name"), LARGE_IN)
def test_untuned_rows_of_large_models_stay_in_registers(op: str, name: str) -> None:
    for launch in launches(op.partition(" ")[0], LARGE[op], name):
        is_good(launch, cross_compile(launch, 90), 90)


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("op", list(GEMMA3))
def test_gemma(op: str, capability: int) -> None:
    for launch in launches(op.partition(" ")[0], GEMMA3[op], "Q8_0"):
        is_good(launch, cross_compile(launch, capability), capability)
