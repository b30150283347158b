"""Real searches on a GPU of spaces that were measured exhaustively: seconds, and how near the best they come."""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from screening.spaces import Part

from autotune.runner import device_lock
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import tune_model
from autotune.tuning.candidate_runner import CandidateRunner
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import Progress, TuneSettings
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import TrialKind

ROUNDS = 31


def search(part: Part, target: TuneTarget, budget: float, seed: int, known: Path | None = None) -> dict[str, Any]:
    """One search with compilers that start from nothing. known: a database whose winners it may begin from."""
    there = replace(target, space=lambda problem: part.like(problem).space(target.device))
    trace: list[tuple[float, float]] = []
    with _cold() as folder:
        path = folder / "tuning.db"
        if known is not None:
            shutil.copy(known, path)
        begun = time.monotonic()

        def report(progress: Progress) -> None:
            if progress.best_ns is not None and (not trace or progress.best_ns < trace[-1][1]):
                trace.append((round(time.monotonic() - begun, 2), progress.best_ns))

        with open_db(path) as db:
            (tuned,), _ = tune_model.tune(
                {part.problem: 1}, [], db, there, TuneSettings(budget_s=budget, seed=seed, report=report)
            )
            seconds = time.monotonic() - begun
            trials = [t for run in db.runs() if run.run.problem == part.key for t in db.trials(run.id)]
    outcomes = [trial.outcome.value for trial in trials if trial.kind is TrialKind.SEARCH]
    return {
        "seed": seed,
        "budget_s": budget,
        "wall_s": round(seconds, 2),
        "evaluations": tuned.trials,
        "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "duplicates": sum((trial.message or "").startswith("the same machine code") for trial in trials),
        "config": dict(tuned.config),
        "trace": trace,
    }


def winners_of_relative(part: Part, target: TuneTarget, budget: float, path: Path) -> None:
    """Tune the other shape that a warm start begins from, into a database of its own."""
    relative = part.like(part.relative_problem)
    there = replace(target, space=lambda problem: relative.space(target.device))
    with _cold(), open_db(path) as db:
        tune_model.tune({relative.problem: 1}, [], db, there, TuneSettings(budget_s=budget))


def compare(part: Part, target: TuneTarget, configs: Sequence[Config]) -> list[float]:
    """Nanoseconds of each, timed in turn."""
    with (
        device_lock.measuring(target.identity, target.name),
        WorkerPool(0, target.separate_measurer, target.program, target=target.name) as worker_pool,
    ):
        runner = CandidateRunner(part.problem, target, worker_pool, 0)
        return [m.median_ns for m in runner.compare_finalists(configs, ROUNDS).measurements]


@contextmanager
def _cold():
    """A folder, in which no compiled kernel is found."""
    before = os.environ.get("AUTOTUNE_CACHE")
    with tempfile.TemporaryDirectory(prefix="autotune-", ignore_cleanup_errors=True) as name:
        os.environ["AUTOTUNE_CACHE"] = str(Path(name) / "cache")
        try:
            yield Path(name)
        finally:
            os.environ.pop("AUTOTUNE_CACHE")
            if before is not None:
                os.environ["AUTOTUNE_CACHE"] = before
