"""Tuning problems side by side, for a GPU: compilers work for all of them at once, and what is compiled is measured.

A trial takes 20 to 70 ms of the GPU and a second or two of a compiler. So compilers are the bottleneck, and no compiled
candidate may go unmeasured: problems taken one after the other would each end with a dozen in the making.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.problem_tuner import ProblemTuner
from autotune.tuning.sequential import WAIT_S, in_order, is_over, weights
from autotune.tuning.tuner_base import Session, Tuned
from kernel_templates.problem import Problem
from kernel_templates.space import Config

QUEUED = 6  # jobs that wait for a compiler: more were proposed knowing less
UNMEASURED = 6  # candidates of a problem that wait to be measured: as long as so many do, others are compiled for
FINAL_S, FINAL_SHARE = 0.4, 0.2  # a problem, and of the budget at most, kept for final comparisons
LEAD_S = 1.5  # before the end, so long, compilers work for what comes after
COMPILE_S = 1.5  # of a candidate, as long as none of a problem was compiled


def tune(
    problems: Mapping[Problem, int], session: Session, budget_s: float | None = None,
    after: Callable[[], None] = lambda: None,
) -> list[Tuned]:  # fmt: skip
    """As `sequential.tune`, with a worker pool whose measurer does not compile. budget_s: seconds for all problems
    together, None: no limit; after: called before the end, when compilers would otherwise idle."""
    session.db.remember_device(session.target.device)
    begun, worker_pool = time.monotonic(), session.worker_pool
    stop = None if budget_s is None else begun + budget_s - min(FINAL_S * len(problems), FINAL_SHARE * budget_s)
    order = in_order(problems)
    share = weights({p: problems[p] for p in order})
    for p in order:  # what each will propose first, for making the searches takes its time
        candidate_runner.warm(p, [session.target.space(p).default], session.target, worker_pool)
    tuners = [ProblemTuner(p, session, (index, len(problems))) for index, p in enumerate(order)]
    candidate_runner.stop_warming(worker_pool)
    with ExitStack() as stack:
        for tuner in tuners:
            stack.enter_context(tuner.tuning())
            tuner.suggest([])
        _search(tuners, share, worker_pool, stop, after)
        for tuner in tuners:
            tuner.runner.close()
            tuner.compile_finalists()
        results, failures, left = [], [], list(tuners)
        while left:
            ready = [t for t in left if not t.runner.is_compiling]
            if not ready:
                worker_pool.wait(0.5)
                continue
            left.remove(tuner := ready[0])
            tuner.runner.close()
            try:
                if (tuned := tuner.finish(problems[tuner.problem])) is not None:
                    results.append(tuned)
            except TuneError as failure:  # the others get their winners first
                failures.append(failure)
            tuner.runner.forget()
        if failures:
            raise failures[0]
    return sorted(results, key=lambda result: list(problems).index(result.problem))


def _search(
    tuners: Sequence[ProblemTuner],
    share: Mapping[Problem, float],
    worker_pool: WorkerPool,
    stop: float | None,
    after: Callable[[], None],
) -> None:
    """Until all trials are done, nothing is left, or it is `stop`."""
    asking = list(tuners)
    while not is_over(tuners, stop):
        early = stop is None or time.monotonic() < stop - LEAD_S
        if asking and (early or any(t.best_config() is None for t in tuners)):
            _propose(asking, share, worker_pool)
        elif asking:
            asking = []
            after()
        if not any(t.runner.compiling for t in tuners):
            asking = [t for t in tuners if t.waits]
            if not asking:
                return
            time.sleep(WAIT_S)
            continue
        news = [(t, answer) for t in tuners if t.runner.inputs_are_ready for answer in t.runner.compiled(0.0)]
        for tuner, (config, compiled) in news:
            if is_over(tuners, stop):
                break
            before = tuner.best_config()
            tuner.attempt(config, compiled)
            if tuner.best_config() != before:
                _tell(tuners, tuner, config)
            _propose(asking, share, worker_pool)
        if not news:
            worker_pool.wait(0.5)
    for tuner in tuners:
        tuner.status = "budget"


def _propose(asking: list[ProblemTuner], share: Mapping[Problem, float], worker_pool: WorkerPool) -> None:
    """Give compilers that are free, and a short queue, the work of the problem that has had least of its share."""

    def had(tuner: ProblemTuner) -> float:
        mean = tuner.compile_s / tuner.measured if tuner.measured else COMPILE_S
        return (tuner.compile_s + tuner.runner.compiling * mean) / share[tuner.problem]

    for _ in range(worker_pool.free_slots(QUEUED)):
        while wanting := [tuner for tuner in asking if tuner.runner.unmeasured < UNMEASURED]:
            least = min(wanting, key=had)
            if least.propose():
                break
            asking.remove(least)


def _tell(tuners: Sequence[ProblemTuner], finder: ProblemTuner, config: Config) -> None:
    """What is best for one context, or one shape, is worth a try for the others; not for other numbers of tokens."""
    kind = finder.problem.op, finder.problem.rows_at_once
    for other in tuners:
        if other is not finder and (other.problem.op, other.problem.rows_at_once) == kind:
            other.search.suggest([config])
