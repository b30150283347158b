"""What screening drops of a measured space and what that costs, and how soon a search finds its best."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from screening.space_files import Measured

from autotune.samplers import replay
from autotune.samplers.study import Search
from autotune.screening import chips, ranking
from autotune.screening.pruner import Pruner
from kernel_templates.space import Config, Space
from tuning_db.records import Measurement, Outcome, Trial

SEEDS = 8
UNDER_WAY = 12  # candidates that are compiled while one is measured
EVALUATIONS = (10, 20, 30, 40, 60, 80, 100, 150, 200)


def screened(space: Measured) -> dict[str, Any]:
    """dropped: share of what compiled; regret: the best kept time over the best, minus 1; by: how many each rule
    dropped; outside: how many took less than their bound, which it should be none."""
    verdicts = ranking.screen(space.candidates, space.work_bytes, chips.of(space.device))
    compiled = [v for v in verdicts if v.kernels]
    times = {v.config: t for v in compiled if (t := space.ns[v.config]) is not None}
    kept = [times[v.config] for v in compiled if v.kept and v.config in times]
    best = min(times.values())
    return {
        "configurations": len(space.ns),
        "compiled": len(compiled),
        "failed": sum(ns is None for ns in space.ns.values()),
        "dropped": sum(not v.kept for v in compiled) / len(compiled),
        "kept": len(kept),
        "best_ns": best,
        "worst_ns": max(times.values()),
        "best_kept_ns": min(kept),
        "regret": min(kept) / best - 1.0,
        "share_needed": _share_needed(verdicts, times),
        "by": dict(Counter(v.rule for v in compiled if v.rule)),
        "bound_above_time": sum(v.estimate is not None and v.estimate.bound > times[v.config] for v in compiled
                                if v.config in times),
        "rank_correlation": _rank_correlation(
            [v.estimate.busy for v in compiled if v.estimate and v.config in times],
            [times[v.config] for v in compiled if v.estimate and v.config in times],
        ),
    }  # fmt: skip


def _share_needed(verdicts: Sequence[ranking.Verdict], times: dict[Config, float]) -> float:
    """How few of what compiled had to be kept for the best to be among them: how near the rule came to missing it."""
    best = min(times, key=times.__getitem__)
    mine = next(v.estimate.busy for v in verdicts if v.config == best and v.estimate)
    fair = [v.estimate.busy for v in verdicts if v.estimate and v.rule in (None, "slow")]
    return sum(busy <= mine for busy in fair) / sum(v.estimate is not None for v in verdicts)


def searched(space: Measured, sampler: str = "pool") -> dict[str, Any]:
    """Found time over the best, after so many evaluations: mean and 95th percentile over the seeds."""
    seconds = tuple(None if ns is None else ns * 1e-9 for ns in space.ns.values())
    recorded = replay.Recorded(space.key, tuple(space.ns), seconds)
    best = min(second for second in seconds if second is not None)
    runs = [replay.replay(recorded, sampler, max(EVALUATIONS), seed) for seed in range(SEEDS)]
    curves = np.array([_found(recorded, run.rows) for run in runs]) / best
    return {
        "sampler": sampler,
        "seeds": SEEDS,
        "found": _after(curves),
        "evaluations_to_1.03": [int(np.argmax(curve <= 1.03)) + 1 if min(curve) <= 1.03 else None for curve in curves],
        "sampler_ms": 1e3 * float(np.mean([run.seconds / len(run.rows) for run in runs])),
    }


def rehearsed(space: Measured, searchable: Space) -> dict[str, Any]:
    """As `searched`, but as a tuning run does it: from the template's default, UNDER_WAY proposals ahead of the
    results; what screening drops meanwhile counts as an evaluation without a time."""
    best = min(ns for ns in space.ns.values() if ns is not None)
    curves = np.array([_rehearsal(space, Search(searchable, "pool", seed)) for seed in range(SEEDS)]) / best
    return {
        "seeds": SEEDS,
        "under_way": UNDER_WAY,
        "found": _after(curves),
    }


def _rehearsal(space: Measured, search: Search) -> np.ndarray:
    """The best time after each evaluation."""
    facts = {candidate.config: candidate.kernels for candidate in space.candidates}
    pruner = Pruner(space.device, space.work_bytes, search.space.default)
    waiting: deque[Config] = deque()
    times: list[float] = []
    while len(times) < max(EVALUATIONS):
        while len(waiting) < UNDER_WAY and (asked := search.ask()) is not None:
            waiting.append(asked)
        if not waiting:
            break
        config, best = waiting.popleft(), min(times, default=np.inf)
        trial = pruner.prune(config, facts[config], 1.0, best if np.isfinite(best) else None)
        if trial is None and (ns := space.ns[config]) is not None:
            trial = Trial(dict(config), Outcome.OK, Measurement(ns, ns, ns, 1))
            pruner.remember(config, facts[config], trial)
        measured = None if trial is None or trial.measurement is None else trial.measurement.median_ns
        search.tell(config, None if measured is None else measured * 1e-9)
        times.append(np.inf if measured is None else measured)
    return np.minimum.accumulate(np.array(times + [np.inf] * (max(EVALUATIONS) - len(times))))


def _after(curves: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean and 95th percentile over the seeds [seeds, evaluations], by the number of evaluations."""
    return {
        str(k): {"mean": float(curves[:, k - 1].mean()), "p95": float(np.quantile(curves[:, k - 1], 0.95))}
        for k in EVALUATIONS
    }


def _found(recorded: replay.Recorded, rows: Sequence[int]) -> np.ndarray:
    times = [second if (second := recorded.seconds[row]) is not None else np.inf for row in rows]
    return np.minimum.accumulate(np.array(times + [np.inf] * (max(EVALUATIONS) - len(times))))


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def best_config(space: Measured) -> Config:
    worked = {config: ns for config, ns in space.ns.items() if ns is not None}
    return min(worked, key=worked.__getitem__)
