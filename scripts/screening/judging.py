"""What screening drops of a measured space and what that costs, and how soon a search finds its best."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from screening.space_files import Measured

from autotune import replay
from autotune.screen import chips, screening
from kernel_templates.space import Config

SEEDS = 8
EVALUATIONS = (10, 20, 30, 40, 60, 80, 100, 150, 200)


def screened(space: Measured) -> dict[str, Any]:
    """dropped: share of what compiled; regret: the best kept time over the best, minus 1; by: how many each rule
    dropped; outside: how many took less than their bound, which it should be none."""
    verdicts = screening.screen(space.candidates, space.work_bytes, chips.of(space.device))
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


def _share_needed(verdicts: Sequence[screening.Verdict], times: dict[Config, float]) -> float:
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
        "found": {
            str(k): {"mean": float(curves[:, k - 1].mean()), "p95": float(np.quantile(curves[:, k - 1], 0.95))}
            for k in EVALUATIONS
        },
        "evaluations_to_1.03": [int(np.argmax(curve <= 1.03)) + 1 if min(curve) <= 1.03 else None for curve in curves],
        "sampler_ms": 1e3 * float(np.mean([run.seconds / len(run.rows) for run in runs])),
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
