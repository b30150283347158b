"""Compiles candidates in worker processes, several at a time, for a GPU that need not be here."""

from collections.abc import Callable, Sequence

from autotune.runner.protocol import Failure, Inspect, Inspected
from autotune.runner.worker_pool import Answer, WorkerPool
from autotune.runner.worker_process import PROGRAM
from autotune.screening.binary import Candidate
from kernel_templates.problem import Problem
from kernel_templates.space import Config

LIMIT_S = 60.0  # a compilation takes a second or two, on a busy machine ten; one that takes so long is given up


def compile_all(
    problem: Problem,
    configs: Sequence[Config],
    capability: int,
    compilers: int,
    report: Callable[[int], None] = lambda done: None,
    program: Sequence[str] = PROGRAM,
) -> list[Candidate]:
    """In the order of `configs`. report: told how many are done. A compiler that dies or hangs costs its candidate."""
    found: dict[Config, Candidate] = {}
    with WorkerPool(compilers, separate_measurer=True, program=program) as worker_pool:
        for config in configs:
            worker_pool.submit(problem, config, Inspect(f"sm{capability}", problem.key, config), LIMIT_S)
        while len(found) < len(configs):
            for config, answer in worker_pool.finished(problem, 1.0):
                found[config] = _candidate(config, answer)
            report(len(found))
    return [found[config] for config in configs]


def _candidate(config: Config, answer: Answer) -> Candidate:
    if isinstance(answer, Inspected):
        return Candidate(config, tuple(binary.resources for binary in answer.binaries))
    if isinstance(answer, Failure):
        return Candidate(config, (), f"does not compile: {answer.message}")
    return Candidate(config, (), f"compiling: {answer}")
