"""The mixture of experts on the CPU against the float64 reference: formats, traits, threads; which experts it reads."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_harness import Built

from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.moe import reference
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Inputs, Weight

SHARED = {"shared_ffn": 64, "shared_gate_format": "Q8_0", "shared_up_format": "Q8_0", "shared_down_format": "Q8_0"}
BESIDE = {"normalized": 1, "post_norm": 1, "beside": 1}
PLAIN = Moe(64, 32, 8, 2, "F32", *["Q8_0"] * 3, normalized=1)
PROBLEMS = [
    PLAIN,
    Moe(96, 32, 5, 1, "F32", "Q4_0", "Q8_0", "Q4_1"),
    Moe(256, 256, 4, 2, "F32", "Q4_K", "Q4_K", "Q6_K", normalized=1),
    Moe(96, 96, 17, 3, "F32", "Q4_0", "Q4_0", "F16", "int8", gate_function="gelu", normalized=1),
    Moe(64, 96, 33, 17, "F32", *["MXFP4"] * 3, gate_function="swiglu_oai", routing="softmax_of_chosen", bias=1),
    Moe(160, 32, 8, 2, "BF16", *["Q8_0"] * 3, routing="sigmoid", normalized=1, scale=2.5, post_norm=1),
    Moe(64, 32, 8, 8, "Q8_0", *["Q8_0"] * 3, routing="sigmoid", bias=1, post_norm=1, **SHARED),
    Moe(64, 96, 8, 3, "F32", *["F16"] * 3, **SHARED, shared_gated=1),
    Moe(96, 32, 8, 3, "F32", "Q8_0", "F16", "Q8_0", **SHARED, **BESIDE),
    Moe(256, 32, 17, 4, "Q8_0", *["Q4_0"] * 3, **SHARED, **BESIDE, gate_function="gelu", out_scale=1),
]


@pytest.fixture(scope="module")
def team() -> Iterator[ThreadPool]:
    pool = ThreadPool(3)
    yield pool
    pool.close()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_agrees_with_the_reference(problem: Moe, team: ThreadPool) -> None:
    built = Built(problem)
    assert max(built.error(seed, team) for seed in (0, 1)) <= reference.tolerance(problem)


def test_whatever_the_configuration(team: ThreadPool) -> None:
    problem = Moe(256, 64, 6, 2, "F32", "Q4_0", "Q4_0", "Q4_0", normalized=1)
    space, draws = registry.cpu_space(problem, machine.features()), random.Random(0)
    for _ in range(3):
        config = space.draw(draws)
        assert config is not None
        assert Built(problem, config).error(0, team) <= reference.tolerance(problem), config.key


def with_logits(problem: Moe, logits: list[float]) -> Inputs:
    """Inputs whose router gives these, about: its first column of x alone."""
    given = reference.inputs(problem, 0)
    rows = np.zeros((problem.experts, problem.hidden), np.float32)
    given.buffers["x"][:] = 1.0
    given.buffers["norm"][:] = 1.0
    rows[:, 0] = logits
    router = Weight(torch.from_numpy(rows.view(np.uint8)), problem.hidden, "F32")
    return replace(given, weights={**given.weights, "router": router})


@pytest.mark.parametrize(("logits", "ids"), [
    ([1, 2, 2, 1, 0, 2, 0, 0], [1, 2]), ([0] * 8, [0, 1]), ([-5, -6, -7, -4, -6, -6, -6, -4], [3, 7]),
])  # fmt: skip
def test_of_equal_logits_the_lower_expert_comes_first(logits: list[float], ids: list[int], team: ThreadPool) -> None:
    given = with_logits(PLAIN, logits)
    assert list(Built(PLAIN).run(given, team)["expert_ids"]) == ids


@pytest.mark.parametrize("logits", [[np.nan] * 8, [-np.inf] * 8, [1, np.nan, 2, 0, 0, 0, 0, 0], [np.inf] + [0] * 7])
def test_logits_that_are_not_finite_choose_experts_that_there_are(logits: list[float], team: ThreadPool) -> None:
    """Else addresses would be made of them; the token is broken, and says so."""
    written = Built(PLAIN).run(with_logits(PLAIN, logits), team)
    assert all(0 <= each < PLAIN.experts for each in written["expert_ids"])
    assert np.isnan(written["expert_weights"][: PLAIN.used]).all() and np.isnan(written["x"][: PLAIN.hidden]).all()


def test_reads_its_own_experts_only(team: ThreadPool) -> None:
    """What other experts hold may be anything."""
    given = with_logits(PLAIN, [0, 3, 0, 0, 0, 0, 4, 0])
    wanted = Built(PLAIN).run(given, team)["x"].copy()
    spoiled = {}
    for name, weight in given.weights.items():
        raw = weight.raw.clone()
        if name != "router":
            each = raw.view(PLAIN.experts, -1)
            each[[0, 2, 3, 4, 5, 7]] = 0xFF  # NaN among the scales
        spoiled[name] = replace(weight, raw=raw)
    given = replace(with_logits(PLAIN, [0, 3, 0, 0, 0, 0, 4, 0]), weights=spoiled)
    np.testing.assert_array_equal(Built(PLAIN).run(given, team)["x"], wanted)
