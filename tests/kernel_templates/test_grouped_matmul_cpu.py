"""Rows times their experts' matrices on the CPU against float64: formats, shares, experts without rows, edges."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from kernel_harness import Built

from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.grouped_matmul import reference
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul.reference import cpu_tolerance

PROBLEMS = [
    GroupedMatmul(32, 96, "Q4_0", 5, 2, 1),
    GroupedMatmul(96, 64, "Q8_0", 8, 3, 7),
    GroupedMatmul(32, 1056, "Q8_0", 3, 2, 40),  # several chunks of columns
    GroupedMatmul(64, 256, "Q4_K", 2, 2, 33, x_of="pair"),
    GroupedMatmul(48, 96, "MXFP4", 16, 4, 9),
    GroupedMatmul(96, 64, "BF16", 4, 1, 13),
]


@pytest.fixture(scope="module")
def team() -> Iterator[ThreadPool]:
    pool = ThreadPool(3)
    yield pool
    pool.close()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_agrees_with_the_reference(problem: GroupedMatmul, team: ThreadPool) -> None:
    assert Built(problem).error(0, team) <= cpu_tolerance(problem)


@pytest.mark.parametrize("problem", PROBLEMS[1:4], ids=lambda p: p.key)
def test_whatever_the_configuration(problem: GroupedMatmul, team: ThreadPool) -> None:
    space, draws = registry.cpu_space(problem, machine.features()), random.Random(0)
    for _ in range(3):
        config = space.draw(draws)
        assert config is not None
        assert Built(problem, config).error(0, team) <= cpu_tolerance(problem), config.key


def test_all_rows_of_one_expert_and_none_of_the_others(team: ThreadPool) -> None:
    problem = GroupedMatmul(32, 64, "Q8_0", 6, 1, 11)
    given = reference.inputs(problem, 0)
    given.buffers["expert_ids"][:] = 4
    expected = reference.outputs(problem, given)["y"]
    found = Built(problem).run(given, team)["y"][: expected.size]
    assert np.linalg.norm(found - expected) <= cpu_tolerance(problem) * np.linalg.norm(expected)


def test_a_gate_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="gate and up apart"):
        registry.cpu_space(GroupedMatmul(64, 64, "Q8_0", 4, 2, 8, gate="silu"), machine.features())
