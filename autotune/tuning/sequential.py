"""Tuning problems one after the other, for a processor: the worker that measures has it alone, so nothing compiles
meanwhile.

Every trial is in the database before the next one starts, so a search that is stopped anywhere goes on from there.
"""

import math
import time
from collections.abc import Iterable, Mapping

from autotune.runner import device_lock
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning.problem_tuner import ProblemTuner
from autotune.tuning.target import TuneTarget, cpu
from autotune.tuning.tuner_base import Session, Tuned, TuneSettings
from kernel_templates import registry
from kernel_templates.problem import Problem
from tuning_db import TuningDB

FINAL_SHARE, FINAL_S = 0.15, 1.5  # of a problem's budget, and at most, kept for the final comparison
FIXED_S = 0.5  # that a problem takes beside its share: opening
WAIT_S = 0.3  # between looks at what other workers do
GRACE_S = 20.0  # that a problem gets beyond its budget while nothing has worked yet


def tune(
    problems: Mapping[Problem, int], db: TuningDB, settings: TuneSettings, target: TuneTarget | None = None
) -> list[Tuned]:
    """Tune each problem for a target, this machine's processor if None; `problems` says how often a token runs each.

    KeyboardInterrupt passes through after the problem at hand got its winner from what is known so far. TuneError: no
    configuration of a problem works, or the comparison of those that did fails.
    """
    target = target or cpu()
    db.remember_device(target.device)
    alone = device_lock.measuring(target.identity, target.name, settings.tell)
    with alone, WorkerPool(target.compilers, target.separate_measurer, target.program) as worker_pool:
        end = None if settings.budget_s is None else time.monotonic() + settings.budget_s
        session = Session(target, db, worker_pool, settings)
        order = in_order(problems)
        shares = list(weights({p: problems[p] for p in order}).values())
        results: list[Tuned] = []
        tuners = [ProblemTuner(p, session, (index, len(problems))) for index, p in enumerate(order)]
        for index, tuner in enumerate(tuners):
            with tuner.tuning():
                tuner.suggest(results)
                tuner.runner.open()
                _search(tuner, _stop(end, shares[index:]))
                if (tuned := tuner.finish(problems[tuner.problem])) is not None:
                    results.append(tuned)
                tuner.runner.forget()
        return sorted(results, key=lambda result: list(problems).index(result.problem))


def _stop(end: float | None, shares: list[float]) -> float | None:
    """When the search of the problem whose share comes first must end: a quick one leaves its time to the others."""
    if end is None:
        return None
    left, later = max(0.0, end - time.monotonic()), len(shares) - 1
    mine = max(left / 2, left - FIXED_S * later) * shares[0] / sum(shares)
    return time.monotonic() + mine - min(FINAL_S, FINAL_SHARE * mine)


def _search(tuner: ProblemTuner, stop: float | None) -> None:
    """Propose for all compilers, compile, measure, until the trials are done, nothing is left, or it is `stop`."""
    while not is_over([tuner], stop):
        # One is proposed even if all workers have just died: it waits for the first of the next ones.
        while (tuner.worker_pool.free_slots() or not tuner.runner.compiling) and tuner.propose():
            pass
        if not tuner.runner.compiling:
            if not tuner.waits:
                return
            time.sleep(WAIT_S)
            continue
        done = []
        while tuner.runner.compiling:
            done += tuner.runner.compiled(1.0)
        for config, compiled in done:
            if is_over([tuner], stop):
                break  # what was compiled for nothing will be found in the cache
            tuner.attempt(config, compiled)
    tuner.status = "budget"


def is_over(tuners: Iterable[ProblemTuner], stop: float | None) -> bool:
    """Whether it is `stop`, and each has something that works or had GRACE_S more."""
    if stop is None or (late_s := time.monotonic() - stop) < 0:
        return False
    return late_s >= GRACE_S or all(t.best_config() is not None for t in tuners)


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
