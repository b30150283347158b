"""Tuning a model for a GPU: every problem alone, then its layers in context, by one crew, within one budget."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from autotune.runner import device_lock
from autotune.runner.timeline import Timeline
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import candidate_runner, parallel, sequential, tune_layers
from autotune.tuning.layer_tuner import TunedLayer
from autotune.tuning.problem_tuner import Progress, Tuned
from autotune.tuning.shared_studies import Studies
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from tuning_db import TuningDB

BUDGET_S = 150.0
ALONE = 0.4  # of the budget


def tune(
    problems: Mapping[Problem, int],
    layers: Sequence[Problem],
    db: TuningDB,
    where: TuneTarget,
    *,
    trials: int | None = None,
    budget_s: float | None = BUDGET_S,
    sampler: str = "pool",
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
    timeline: Timeline | None = None,
    tell: Callable[[str], None] = lambda message: None,
    studies: Studies | None = None,
) -> tuple[list[Tuned], list[TunedLayer]]:
    """Both stages; either may be empty. trials: of each problem alone; budget_s: seconds for everything, the workers'
    start included; None: no limit. timeline: where every worker's jobs leave their spans. tell: hears of it when this
    waits for another process that measures on the device; the budget does not count that. studies: of
    `parallel.tune`; layers in context each worker tunes for itself. Raises what `parallel.tune` and
    `tune_layers.tune` raise."""
    with device_lock.measuring(where.identity, where.name, tell):
        begun = time.monotonic()

        def left(share: float) -> float | None:
            return None if budget_s is None else max(0.0, begun + budget_s * share - time.monotonic())

        with WorkerPool(where.compilers, where.apart, where.program, timeline, where.name) as crew:
            candidate_runner.draw_ahead([*sequential.in_order(problems), *layers], where, crew, seed)
            alone = parallel.tune(
                problems, db, where, crew, trials=trials, budget_s=left(ALONE if layers else 1.0), sampler=sampler,
                seed=seed, report=report, after=partial(tune_layers.warm, layers, db, where, crew, seed),
                studies=studies,
            )  # fmt: skip
            return alone, tune_layers.tune(layers, db, where, crew, budget_s=left(1.0), seed=seed, report=report)
