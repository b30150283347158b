"""Tuning a model for a GPU: every problem alone, then its layers in context, by one crew, within one budget."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from autotune import chain, judging, side_by_side, tuner
from autotune.layer_search import TunedLayer
from autotune.measure import device_lock
from autotune.measure.crew import Crew
from autotune.measure.timeline import Timeline
from autotune.place import Place
from autotune.problem_search import Progress, Tuned
from autotune.studies import Studies
from kernel_templates.problem import Problem
from tuning_db import TuningDB

BUDGET_S = 150.0
ALONE = 0.4  # of the budget


def tune(
    problems: Mapping[Problem, int],
    layers: Sequence[Problem],
    db: TuningDB,
    where: Place,
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
    `side_by_side.tune`; layers in context each worker tunes for itself. Raises what `side_by_side.tune` and
    `chain.tune` raise."""
    with device_lock.measuring(where.identity, where.name, tell):
        begun = time.monotonic()

        def left(share: float) -> float | None:
            return None if budget_s is None else max(0.0, begun + budget_s * share - time.monotonic())

        with Crew(where.compilers, where.apart, where.program, timeline, where.name) as crew:
            judging.draw_ahead([*tuner.in_order(problems), *layers], where, crew, seed)
            alone = side_by_side.tune(
                problems, db, where, crew, trials=trials, budget_s=left(ALONE if layers else 1.0), sampler=sampler,
                seed=seed, report=report, after=partial(chain.warm, layers, db, where, crew, seed), studies=studies,
            )  # fmt: skip
            return alone, chain.tune(layers, db, where, crew, budget_s=left(1.0), seed=seed, report=report)
