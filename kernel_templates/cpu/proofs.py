"""Proves configurations on this processor before their first use, and remembers what came of it.

A winner may come from anybody's database. It runs here once on small random inputs of its own problem, against the
float64 reference; the verdict holds for this configuration, this processor and this software.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

from kernel_templates import proof, proof_record, registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.lazy import torch
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from kernel_templates.verify import WrongResult, verify

SEED = 0


def refusal(problem: Problem, config: Config) -> str | None:
    """Why a configuration must not be used here, in one line; None for one that is proved.

    Raises what the compiler raises."""
    device = machine.detect()
    known = proof_record.known(problem, config, device)
    if known is not None:
        return known.wrong
    with _one_torch_thread():
        wrong = _proved(problem, config)
    proof_record.remember(problem, config, device, wrong)
    return wrong


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Matrices are small here, and waiting for a second thread takes longer than what it does: 0.1 s a model with one,
    0.7 to 2.8 s with two on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _proved(problem: Problem, config: Config) -> str | None:
    template, found = registry.cpu(problem.op), proof.of(problem, SEED)
    tolerance = registry.get(problem.op).tolerance_on("cpu", problem)
    kernel = template.compile(problem, config, machine.features())
    packed = template.pack(problem, config, found.inputs.weights)
    scratch = np.zeros(max(64, template.scratch_bytes(problem, config)), np.uint8)
    elsewhere = found.elsewhere
    pool = ThreadPool(1)
    try:
        for position, expected in ((None, found.expected), *elsewhere):
            buffers = {name: value.copy() for name, value in found.inputs.buffers.items()}
            if position is not None:
                buffers["position"][0] = position
            step = template.bind(problem, config, kernel, packed, {**buffers, "scratch": scratch})
            Graph(pool, [step]).replay()
            verify(buffers, expected, tolerance)
    except WrongResult as wrong:
        return f"it computes wrongly here: {wrong}"
    finally:
        pool.close()
    return None
