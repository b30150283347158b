"""Estimates the noise between measurements of the same thing, and tells a real difference from it.

Quantiles of one measurement say how its executions scattered within milliseconds. What separates two runs is more:
clocks, memory placement, neighbours. Both can be learned from the database, for it holds the same configuration
measured again.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autotune.dashboard.page_data import RunData
from tuning_db.records import Measurement

LEAST = 30  # repeats, before their scatter is believed
SUPPOSED = 0.05  # relative scatter while there are fewer repeats
COVERED = 0.98  # of the differences between repeats lie within the band


@dataclass(frozen=True)
class Noise:
    """band: |ln(second / first)| that 98% of `count` repeated measurements keep; assumed: too few for an own one."""

    band: float
    count: int
    between_runs: bool
    assumed: bool = False


@dataclass(frozen=True)
class Comparison:
    """ratio: second time / first; low, high: its interval; word: of the second, "better", "worse" or "noise"."""

    ratio: float
    low: float
    high: float
    word: str


def estimate_noise(runs: Iterable[RunData]) -> Noise:
    """From repeats in different runs where there are enough, else also from those in one run."""
    seen: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for run in runs:
        for place, nanoseconds in run.working:
            config = repr(sorted(run.trials[place].trial.config.items()))
            seen[run.stored.device.fingerprint, run.stored.run.problem, config].append((run.stored.id, nanoseconds))
    pairs = [pair for found in seen.values() for pair in itertools.pairwise(found)]
    apart = [abs(math.log(b / a)) for (one, a), (other, b) in pairs if one != other]
    between = len(apart) >= LEAST
    differences = apart if between else [abs(math.log(b / a)) for (_, a), (_, b) in pairs]
    return _noise(differences, between)


def launch_noise(repeats: Iterable[Sequence[float]]) -> Noise:
    """From the times of launches that are alike, each sequence of one kernel in one report."""
    times = [[time for time in sequence if time > 0] for sequence in repeats]
    return _noise([abs(math.log(b / a)) for one in times for a, b in itertools.pairwise(one)], False)


def of_launches(times: Sequence[float]) -> Measurement:
    """At least one time, in ns, as a measurement: its quantiles as far as there are enough to have some."""
    ordered = sorted(times)
    return Measurement(_quantile(ordered, 0.1), _quantile(ordered, 0.5), _quantile(ordered, 0.9), len(ordered))


def _noise(differences: Sequence[float], between: bool) -> Noise:
    if len(differences) < LEAST:
        return Noise(SUPPOSED, len(differences), False, True)
    return Noise(_quantile(differences, COVERED), len(differences), between)


def compare(first: Measurement, second: Measurement, noise: Noise) -> Comparison:
    """The band around the ratio is that of repeats and that of the two medians together.

    A median's standard error: 1.2533 · sd / √n, with sd = (q90 − q10) / 2.5631 as for a normal distribution; taken 2.33
    times (98%, two-sided).
    """
    own = math.hypot(*(2.33 * 1.2533 * _spread(m) / math.sqrt(max(m.samples, 1)) for m in (first, second)))
    band = math.hypot(noise.band, own)
    ratio = second.median_ns / first.median_ns
    low, high = ratio * math.exp(-band), ratio * math.exp(band)
    return Comparison(ratio, low, high, "better" if high < 1 else "worse" if low > 1 else "noise")


def _spread(measurement: Measurement) -> float:
    return max(measurement.q90_ns - measurement.q10_ns, 0.0) / 2.5631 / measurement.median_ns


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
