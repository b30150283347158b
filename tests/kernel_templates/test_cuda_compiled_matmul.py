"""Products with many tokens compiled for chips that are not here, in their default configurations: what code does."""

import os
import re
from typing import Any

import pytest
import torch
from compiled_once import cross_compile
from some_formats import TWO, few, two

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from kernel_templates import formats, random_inputs, registry
from kernel_templates.cuda import expand
from kernel_templates.cuda.crosscompile import Compiled
from kernel_templates.cuda.launch import Launch
from kernel_templates.device import Device
from kernel_templates.matmul import cuda as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config

QUANTIZED = [name for name, fmt in formats.FORMATS.items() if fmt.quantized]
PRODUCTS = {"thin": "mma.sync.aligned.m16n8k16", "wide": "wgmma.mma_async"}
CHIPS = {80: Device("cuda", "any", "8.0", 108, 40 << 30), 90: Device("cuda", "any", "9.0", 132, 80 << 30)}


def launches(problem: Matmul, capability: int, **values: Any) -> tuple[str, list]:
    """The algorithm of the default configuration, but for `values`, and what it runs; tensors have shapes only, since
    nothing runs."""
    space = registry.cuda_space(problem, CHIPS[capability])
    config = Config({**space.default, **values})
    assert space.broken(config) is None
    with random_inputs.shapes_only():
        inputs = registry.get("matmul").inputs(problem, 0)
    packed = matmul.pack(problem, config, inputs.weights, "meta")
    return config["algorithm"], matmul.launches(problem, config, packed, matmul.prepare(problem, inputs, "meta"))


def is_good(launch: Launch, capability: int, product: str) -> Compiled:
    code = cross_compile(launch, capability)
    assert code.spills == 0, (launch.name, code.resources)
    assert code.ptx.count("griddepcontrol.wait") == (capability >= 90)
    assert product in code.ptx
    if capability >= 90:
        before, _ = code.ptx.split("griddepcontrol.wait")
        assert "ld.global" in before and "st.global" not in before, "weights are on their way before the wait"
    return code


def is_good_by_default(problem: Matmul, capability: int, wanted: str) -> None:
    algorithm, (launch,) = launches(problem, capability)
    assert algorithm == wanted
    is_good(launch, capability, PRODUCTS[algorithm])


@pytest.mark.parametrize("name", few(QUANTIZED))
def test_few_tokens(name: str) -> None:
    is_good_by_default(Matmul(3072, 1024, name, 32), 90, "thin")


@pytest.mark.parametrize(("rows", "cols", "capability"), [(3072, 1024, 80), (3072, 1024, 90), (24576, 2048, 90)])
@pytest.mark.parametrize("name", two(QUANTIZED))
def test_fewer_tokens(name: str, rows: int, cols: int, capability: int) -> None:
    is_good_by_default(Matmul(rows, cols, name, 8), capability, "thin")


# Quants of one plane and of several, subscales of each size, a minimum of its own, scales that are exponents.
IN_BLOCKS = ("Q4_0", "Q8_0", "Q3_K", "Q5_K", "MXFP4")


@pytest.mark.parametrize("name", [n if n in IN_BLOCKS else pytest.param(n, marks=pytest.mark.slow) for n in QUANTIZED])
def test_many_tokens(name: str) -> None:
    is_good_by_default(Matmul(3072, 2048, name, 128), 90, "wide")


GATES = [  # each pair of two of the three; the slow tests have all
    pytest.param(name, gate, tokens, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, name in enumerate(TWO)
    for j, gate in enumerate(("silu", "gelu"))
    for k, tokens in enumerate((1, 64))
]


@pytest.mark.parametrize(("name", "gate", "tokens"), GATES)
def test_a_gate(name: str, gate: str, tokens: int) -> None:
    algorithm, (launch,) = launches(Matmul(6144, 1024, name, tokens, gate=gate), 90)
    is_good(launch, 90, PRODUCTS[algorithm])


def test_widths_that_are_no_multiples() -> None:
    """SmolLM2's, whose columns are no whole groups of 128."""
    for tokens, rows, cols in ((4, 960, 576), (32, 576, 1536), (64, 960, 576)):
        algorithm, (launch,) = launches(Matmul(rows, cols, "Q4_1", tokens), 90)
        is_good(launch, 90, PRODUCTS[algorithm])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_of_one_product_goes_on_while_the_next_is_decoded(parts: int) -> None:
    """Of two products the first is waited for at once."""
    values = {"algorithm": "wide", "warps": 8, "block": 256, "parts": parts}
    _, (launch,) = launches(Matmul(6144, 4096, "Q4_0", 512), 90, **values)
    code = is_good(launch, 90, PRODUCTS["wide"])
    waits = re.findall(r"wgmma.wait_group.sync.aligned (\d+);", code.ptx)
    assert waits == (["7"] * 8 if parts == 1 else ["0"]) + ["0"], "the last one is behind the loop"


@pytest.mark.parametrize("capability", list(CHIPS))
def test_many_tokens_are_the_library_s(capability: int) -> None:
    algorithm, made = launches(Matmul(6144, 1024, "Q4_0", 512, gate="silu"), capability)
    assert (algorithm, [launch.name for launch in made]) == ("library", ["expand", "matmul", "gate"])
    expansion, _, gate = made
    (planes,) = expansion.parts
    for launch in (expand.launch(planes, torch.empty_like(expansion.out)), gate):
        assert cross_compile(launch, capability).spills == 0
