"""Tuning problems side by side, for a GPU: compilers work for all of them at once, and what is compiled is measured.

A trial takes 20 to 70 ms of the GPU and a second or two of a compiler. So compilers are the bottleneck, and no compiled
candidate may go unmeasured: problems taken one after the other would each end with a dozen in the making.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from autotune.runner.worker_pool import WorkerPool
from autotune.tuning.problem_tuner import ProblemSearch, Progress, Tuned
from autotune.tuning.sequential import WAIT_S, in_order, is_over, weights
from autotune.tuning.shared_studies import Studies
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from tuning_db import TuningDB

QUEUED = 6  # jobs that wait for a compiler: more were proposed knowing less
UNMEASURED = 6  # candidates of a problem that wait to be measured: as long as so many do, others are compiled for
REMATCH_S, REMATCH_SHARE = 0.4, 0.2  # a problem, and of the budget at most, kept for rematches
LEAD_S = 1.5  # before the end, so long, compilers work for whoever comes after
COMPILE_S = 1.5  # of a candidate, as long as none of a problem was compiled


def tune(
    problems: Mapping[Problem, int],
    db: TuningDB,
    where: TuneTarget,
    crew: WorkerPool,
    *,
    trials: int | None = None,
    budget_s: float | None = None,
    sampler: str = "pool",
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
    after: Callable[[], None] = lambda: None,
    studies: Studies | None = None,
) -> list[Tuned]:
    """As `tuner.tune`, with a crew whose measurer does not compile. after: called before the end, when compilers would
    otherwise idle."""
    db.remember_device(where.device)
    begun = time.monotonic()
    stop = None if budget_s is None else begun + budget_s - min(REMATCH_S * len(problems), REMATCH_SHARE * budget_s)
    order = in_order(problems)
    share = weights({p: problems[p] for p in order})
    searches = [
        ProblemSearch(p, where, db, crew, sampler, seed, (index, len(problems)), report, trials, studies)
        for index, p in enumerate(order)
    ]
    with ExitStack() as stack:
        for search in searches:
            stack.enter_context(search.recorded())
            search.suggest([])
        _search(searches, share, crew, stop, after)
        results = []
        for search in searches:
            search.bench.close()
            results.append(search.decide(problems[search.problem]))
            search.bench.forget()
    return sorted(results, key=lambda result: list(problems).index(result.problem))


def _search(
    searches: Sequence[ProblemSearch],
    share: Mapping[Problem, float],
    crew: WorkerPool,
    stop: float | None,
    after: Callable[[], None],
) -> None:
    """Until all trials are done, nothing is left, or it is `stop`."""
    asking = list(searches)
    while not is_over(searches, stop):
        if asking and (stop is None or time.monotonic() < stop - LEAD_S or not all(s.best() for s in searches)):
            _propose(asking, share, crew)
        elif asking:
            asking = []
            after()
        if not any(s.bench.compiling for s in searches):
            asking = [s for s in searches if s.waits]
            if not asking:
                return
            time.sleep(WAIT_S)
            continue
        news = [(s, answer) for s in searches if s.bench.drawn for answer in s.bench.compiled(0.0)]
        for search, (config, compiled) in news:
            if is_over(searches, stop):
                break
            before = search.best()
            search.attempt(config, compiled)
            if search.best() != before:
                _tell(searches, search, config)
            _propose(asking, share, crew)
        if not news:
            crew.wait(0.5)
    for search in searches:
        search.status = "budget"


def _propose(asking: list[ProblemSearch], share: Mapping[Problem, float], crew: WorkerPool) -> None:
    """Give compilers that are free, and a short queue, the work of whoever has had least of its share."""

    def had(search: ProblemSearch) -> float:
        mean = search.compile_s / search.measured if search.measured else COMPILE_S
        return (search.compile_s + search.bench.compiling * mean) / share[search.problem]

    for _ in range(crew.room(QUEUED)):
        while wanting := [search for search in asking if search.bench.unmeasured < UNMEASURED]:
            least = min(wanting, key=had)
            if least.propose():
                break
            asking.remove(least)


def _tell(searches: Sequence[ProblemSearch], finder: ProblemSearch, config: Config) -> None:
    """What is best for one context is worth a try for the others."""
    for other in searches:
        if other is not finder and other.problem.op == finder.problem.op:
            other.search.suggest([config])
