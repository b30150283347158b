"""Writes beside a buffer are found, whoever holds it."""

import ctypes

import numpy as np
import pytest
import torch

from autotune.runner import cpu_candidate
from autotune.runner.redzones import OutOfBounds, Redzones
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.matvec.problem import Matvec


@pytest.mark.parametrize("past_the_end", [False, True])
def test_a_write_on_either_side(past_the_end) -> None:
    for make in (lambda f: f.array(np.arange(12.0)), lambda f: f.tensor(torch.arange(12.0)).numpy()):
        redzones = Redzones()
        inside = make(redzones)
        assert inside.tolist() == list(range(12)) and inside.ctypes.data % inside.itemsize == 0
        inside[:] = 5.0
        redzones.check()
        ctypes.memset(inside.ctypes.data + (inside.nbytes if past_the_end else -1), 0, 1)
        with pytest.raises(OutOfBounds):
            redzones.check()


def test_a_candidate_that_writes_past_its_output_is_refused(monkeypatch) -> None:
    """The real backend and a real kernel, whose output is one row shorter than it believes."""
    from autotune.runner import cpu_candidate as module
    from kernel_templates import registry

    problem, team = Matvec(96, 64, "Q8_0"), ThreadPool(1)
    try:
        opened = cpu_candidate.OpenProblem(problem, team, 0)
        config = registry.cpu_space(problem, frozenset()).default
        assert opened.prepare(config, 1).error <= opened.tolerance
        output = next(iter(opened._proof.expected))
        array = module.Redzones.array

        def short(self, value):
            inside = array(self, value)
            if value is not opened._inputs.buffers[output]:
                return inside
            whole = array(self, value[: opened._proof.expected[output].size - 1])
            return np.lib.stride_tricks.as_strided(whole, value.shape, value.strides)

        monkeypatch.setattr(module.Redzones, "array", short)
        with pytest.raises(OutOfBounds):
            opened.prepare(config, 1)
    finally:
        team.close()
