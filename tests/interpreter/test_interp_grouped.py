"""Products of many rows with their experts' matrices, and what stands around them, in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_templates import registry
from kernel_templates.cuda.fragments import ORDERS, arranged
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.device import Device
from kernel_templates.moe import choose, rows
from kernel_templates.moe.problem import Moe
from kernel_templates.verify import verify

HOPPER = Device("cuda", "any", "9.0", 132, 1 << 34)
KEY = "grouped_matmul:rows={0},cols={1},format={2},experts={3},used={4},tokens={5}"


def check(key: str, ids: np.ndarray | None = None, **values) -> None:
    """The default configuration with these values, on other choices where there are."""
    problem = registry.parse_problem(key)
    operation, template, space = (
        registry.get(problem.op),
        registry.cuda(problem.op),
        registry.cuda_space(problem, HOPPER),
    )
    config = {**space.default, **values}
    assert space.broken(config) is None, space.broken(config)
    inputs = operation.inputs(problem, 5)
    if ids is not None:
        inputs.buffers["expert_ids"][:] = ids
    buffers = template.prepare(problem, inputs, "cpu")
    for launch in template.launches(problem, config, template.pack(problem, config, inputs.weights, "cpu"), buffers):
        launch.run(INTERPRETED)
    verify(template.collect(problem, buffers), operation.reference(problem, inputs), operation.tolerance(problem))


@pytest.mark.parametrize("name", [
    "Q4_0", "MXFP4", "F16", "F32",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("Q8_0", "Q4_K", "Q6_K", "Q3_K", "BF16")),
])  # fmt: skip
def test_every_kind_of_format(name):
    check(KEY.format(16, 256 if name.endswith("_K") else 64, name, 3, 2, 4))


@pytest.mark.parametrize(("key", "values"), [
    (KEY.format(24, 160, "Q8_0", 3, 1, 5) + ",x_of=pair", {}),
    (KEY.format(32, 64, "MXFP4", 3, 2, 4) + ",gate=swiglu_oai,bias=1", {}),
    (KEY.format(64, 64, "BF16", 3, 2, 4) + ",gate=gelu", {"warps": 1}),
    (KEY.format(64, 160, "Q4_0", 2, 2, 18), {"algorithm": "wide", "block": 16}),
    pytest.param(
        KEY.format(80, 128, "Q8_0", 2, 1, 20) + ",gate=silu,x_of=pair",
        {"algorithm": "wide", "block": 16, "tiles": 2}, marks=pytest.mark.slow,
    ),
    pytest.param(KEY.format(24, 288, "Q4_1", 3, 2, 20), {"block": 16, "ahead": 2}, marks=pytest.mark.slow),
])  # fmt: skip
def test_traits_and_algorithms(key, values):
    check(key, **values)


@pytest.mark.parametrize("ids", [[2] * 6, [0, 1, 2, 3, 0, 1], [3, 3, 3, 0, 0, 3]], ids=["one", "spread", "ends"])
def test_any_choice_fits_the_grid(ids):
    """All rows of one expert make more blocks than a balanced choice; experts without a row make none."""
    check(KEY.format(16, 64, "F16", 4, 2, 3), np.array(ids, np.int32), block=16, warps=1)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_pairs_are_sorted_by_expert_and_stay_in_order(ids):
    """5 experts; what has number 5 has none, and is left out."""
    given_ids = torch.tensor(ids, dtype=torch.int32)
    offsets, pairs = torch.full((6,), -9, dtype=torch.int32), torch.full((len(ids),), -9, dtype=torch.int32)
    rows.group_launch(5, given_ids, offsets, pairs).run(INTERPRETED)
    order = np.argsort(ids, kind="stable")
    count = sum(e < 5 for e in ids)
    assert pairs[:count].tolist() == order[:count].tolist() and (pairs[count:] == -9).all()
    assert offsets.tolist() == [sum(e < bound for e in ids) for bound in range(6)]


def test_pairs_are_sorted_in_several_rounds(monkeypatch):
    monkeypatch.setattr(rows, "PAIRS", 16)
    test_pairs_are_sorted_by_expert_and_stay_in_order.hypothesis.inner_test([3, 1, 4, 1, 5, 0, 2, 0] * 6)


@pytest.mark.parametrize("order", ORDERS)
def test_router_logits_are_as_exact_as_float32_weights(order):
    problem, generator = Moe(160, 32, 19, 3, *["F32"] * 4, bias=1), torch.Generator().manual_seed(1)
    h, weight, bias = (torch.randn(size, generator=generator) for size in ((5, 160), (19, 160), (19,)))
    logits = torch.full((5, 19), torch.nan)
    rows.router_launch(problem, arranged(h.half(), order), weight, bias, logits, 5, order).run(INTERPRETED)
    torch.testing.assert_close(logits.double(), h.half().double() @ weight.double().T + bias, rtol=1e-5, atol=1e-5)


def test_the_sum_of_a_token_s_experts_and_nothing_of_an_unused_one():
    problem, generator = Moe(64, 32, 7, 3, *["F32"] * 4, bias=1), torch.Generator().manual_seed(2)
    logits, y = torch.randn((4, 7), generator=generator), torch.randn((12, 64), generator=generator)
    bias, out = torch.randn((7, 64), generator=generator), torch.full((4, 64), torch.nan)
    made = rows.allocate([problem], 4, "cpu")
    ids, weights = made["expert_ids"], made["expert_weights"]
    choose.launch(problem, logits, ids, weights, 4, torch.tensor([5, 6, -1, 7], dtype=torch.int32)).run(INTERPRETED)
    assert (ids.view(4, 3)[2] == 7).all() and not weights.view(4, 3)[2].any()
    y.view(4, 3, 64)[2] = torch.nan  # nobody wrote it
    rows.combine_launch(problem, y, ids, weights, bias, None, out, 2.0).run(INTERPRETED)
    used = [0, 1, 3]
    parts = 2 * y.view(4, 3, 64)[used] + bias[ids.view(4, 3)[used].long()]
    torch.testing.assert_close(out[used], (weights.view(4, 3, 1)[used] * parts).sum(1))
    assert not out[2].any()
