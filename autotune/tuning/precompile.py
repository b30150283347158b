"""Compiles what a model's kernels will be on a GPU that need not be here: what runs untuned, what has won so far, and
what a tuning run would try first.

Kernels are kept by a digest of all that they follow from (`kernel_templates.cuda.kernel_cache`), so a machine without a
GPU can fill the cache of one that has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.runner.protocol import Compile, Compiled, Failure
from autotune.runner.worker_pool import NEXT, NOW, Answer, WorkerPool
from autotune.runner.worker_process import PROGRAM
from autotune.samplers.study import Search, neighbours
from autotune.screening.chips import Chip
from autotune.tuning.problem_tuner import known_elsewhere
from autotune.tuning.target import TuneTarget
from kernel_templates import registry
from kernel_templates.problem import Chain, Problem
from kernel_templates.space import Config
from tuning_db import TuningDB

LIMIT_S = 60.0  # a compilation takes a second or two, on a busy machine ten; one that takes so long is given up
OWNER = "precompile"


@dataclass(frozen=True)
class Precompiled:
    """candidates: configurations that were asked for; failures: why some of them did not compile, by problem and
    configuration."""

    candidates: int
    failures: Mapping[tuple[Problem, Config], str]


def target_of(chip: Chip, compilers: int) -> TuneTarget:
    """A chip that is known and not here, as the tuner sees it."""
    device = chip.device

    def space(problem: Problem):
        return registry.cuda_space(problem, device)

    name = f"sm{chip.capability}"
    return TuneTarget(
        name, name, device, space, lambda problem: registry.get(problem.op).work(problem.typical), compilers,
        separate_measurer=True, program=PROGRAM,
    )  # fmt: skip


def first_candidates(problem: Problem, target: TuneTarget, db: TuningDB, count: int) -> list[Config]:
    """The untuned configuration, what a model would run with now, and then, `count` in all at least, what a search
    begins with."""
    space = target.space(problem)
    found = known_elsewhere(db, target, problem)[:2]
    first = [c for c in dict.fromkeys((space.default, *found)) if space.broken(c) is None]
    if isinstance(problem, Chain):
        steps = iter(neighbours(space, space.default))
    else:
        search = Search(space)
        search.suggest(found)
        steps = iter(search.ask, None)
    while len(first) < count and (config := next(steps, None)) is not None:
        if config not in first:
            first.append(config)
    return first


def precompile(
    problems: Sequence[Problem], target: TuneTarget, db: TuningDB, count: int,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Precompiled:  # fmt: skip
    """Have the kernels of each problem's first candidates in the cache, those first that run untuned. report: told how
    many candidates of how many are done. A compiler that dies or hangs costs its candidate."""
    failures: dict[tuple[Problem, Config], str] = {}
    done = total = 0
    with WorkerPool(target.compilers, separate_measurer=True, program=target.program) as pool:
        # The untuned ones of all problems are asked for before the first search is made, which takes its time.
        for problem in problems:
            default = target.space(problem).default
            pool.submit(OWNER, (problem, default), Compile(target.compile_target, problem.key, default), LIMIT_S, NOW)
            total += 1
        for problem in problems:
            default, *others = first_candidates(problem, target, db, count)
            for config in others:
                request = Compile(target.compile_target, problem.key, config, default)
                pool.submit(OWNER, (problem, config), request, LIMIT_S, NEXT)
            total += len(others)
        while done < total:
            for about, answer in pool.finished(OWNER, 1.0):
                done += 1
                if (why := _failure(answer)) is not None:
                    failures[about] = why
            report(done, total)
    return Precompiled(total, failures)


def _failure(answer: Answer) -> str | None:
    if isinstance(answer, Compiled):
        return None
    return answer.message if isinstance(answer, Failure) else str(answer)
