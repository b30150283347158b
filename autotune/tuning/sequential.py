"""Tuning problems one after the other, for a processor: whoever measures has it alone, so nothing compiles meanwhile.

Every trial is in the database before the next one starts, so a search that is stopped anywhere goes on from there.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from autotune.runner import device_lock
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import candidate_runner, target
from autotune.tuning.problem_tuner import ProblemSearch, Progress, Tuned
from autotune.tuning.shared_studies import Studies
from autotune.tuning.target import TuneTarget
from kernel_templates import registry
from kernel_templates.problem import Problem
from tuning_db import TuningDB

REMATCH_SHARE, REMATCH_S = 0.15, 1.5  # of a problem's budget, and at most, kept for the rematch
FIXED_S = 0.5  # that a problem takes beside its share: opening
WAIT_S = 0.3  # between looks at what other workers do
GRACE_S = 20.0  # that a problem gets beyond its budget while nothing has worked yet
TuneError = candidate_runner.TuneError


def tune(
    problems: Mapping[Problem, int],
    db: TuningDB,
    *,
    trials: int | None = 40,
    budget_s: float | None = 75.0,
    sampler: str = "pool",
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
    where: TuneTarget | None = None,
    tell: Callable[[str], None] = lambda message: None,
    studies: Studies | None = None,
) -> list[Tuned]:
    """Tune each problem for `where`, this machine's processor if None; `problems` says how often a token runs each.

    trials: proposals per problem, earlier runs' included; budget_s: seconds for all problems together; None: no limit.
    While another process measures on the device this one waits, which `tell` is told and the budget does not count.
    studies: where other workers tune the same problems; trials are then all workers' together.
    KeyboardInterrupt passes through after the problem at hand got its winner from what is known so far. TuneError: no
    configuration of a problem works, or the rematch of those that did fails.
    """
    where = where or target.cpu()
    db.remember_device(where.device)
    alone = device_lock.measuring(where.identity, where.name, tell)
    with alone, WorkerPool(where.compilers, where.apart, where.program) as crew:
        end = None if budget_s is None else time.monotonic() + budget_s
        order = in_order(problems)
        shares = list(weights({p: problems[p] for p in order}).values())
        results: list[Tuned] = []
        searches = [
            ProblemSearch(p, where, db, crew, sampler, seed, (index, len(problems)), report, trials, studies)
            for index, p in enumerate(order)
        ]
        for index, search in enumerate(searches):
            with search.recorded():
                search.suggest(results)
                search.bench.open()
                _search(search, _stop(end, shares[index:]))
                results.append(search.decide(problems[search.problem]))
                search.bench.forget()
        return sorted(results, key=lambda result: list(problems).index(result.problem))


def _stop(end: float | None, shares: list[float]) -> float | None:
    """When the problem whose share comes first must be rematched: a quick one leaves its time to the others."""
    if end is None:
        return None
    left, later = max(0.0, end - time.monotonic()), len(shares) - 1
    mine = max(left / 2, left - FIXED_S * later) * shares[0] / sum(shares)
    return time.monotonic() + mine - min(REMATCH_S, REMATCH_SHARE * mine)


def _search(search: ProblemSearch, stop: float | None) -> None:
    """Propose for all compilers, compile, measure, until the trials are done, nothing is left, or it is `stop`."""
    while not is_over([search], stop):
        # One is proposed even if all workers have just died: it waits for the first of the next ones.
        while (search.crew.room() or not search.bench.compiling) and search.propose():
            pass
        if not search.bench.compiling:
            if not search.waits:
                return
            time.sleep(WAIT_S)
            continue
        done = []
        while search.bench.compiling:
            done += search.bench.compiled(1.0)
        for config, compiled in done:
            if is_over([search], stop):
                break  # what was compiled for nothing will be found in the cache
            search.attempt(config, compiled)
    search.status = "budget"


def is_over(searches: Iterable[ProblemSearch], stop: float | None) -> bool:
    """Whether it is `stop`, and each has something that works or had GRACE_S more."""
    now = time.monotonic()
    return stop is not None and (now >= stop + GRACE_S or (now >= stop and all(s.best() for s in searches)))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Small ones first: their trials are quick, and what they find is tried first on the large ones."""
    return sorted(problems, key=_bytes)


def _bytes(problem: Problem) -> int:
    return registry.get(problem.op).work(problem).bytes


def weights(problems: Mapping[Problem, int]) -> dict[Problem, float]:
    """How much time each deserves. What moves more bytes in a token deserves more, but not in proportion: little
    problems add up. Those that differ in their context only are never in one token. Nothing gets less than a fair bit.
    """
    kinds = [p.without_context for p in problems]
    found = [math.sqrt(_bytes(p) * n) / kinds.count(k) for (p, n), k in zip(problems.items(), kinds, strict=True)]
    return {p: max(w, 0.5 * sum(found) / len(found)) for p, w in zip(problems, found, strict=True)}
