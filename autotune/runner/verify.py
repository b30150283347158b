"""Right or wrong, and how long: what candidates of every backend are judged by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tuning_db.records import Measurement


class Timed(Protocol):
    """A candidate that is ready: `sample` gives nanoseconds a call."""

    def sample(self) -> float: ...


class Probe(Protocol):
    """Reads `nbytes` of memory in `seconds()`."""

    nbytes: int

    def seconds(self) -> float: ...


class WrongResult(Exception):
    """The candidate's output is not the reference's; `error` is the relative error, inf for NaN."""

    def __init__(self, error: float, tolerance: float):
        super().__init__(f"relative error {error:.3g} is above the tolerance {tolerance:.3g}")
        self.error = error


def relative_error(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest ||out - ref|| / ||ref|| over the outputs that both have; NaN and infinity count as infinite.

    What is longer than its reference is padding. Raises ValueError when no name is in both.
    """
    names = got.keys() & wanted.keys()
    if not names:
        raise ValueError(f"the template gives {sorted(got)} and the reference {sorted(wanted)}: nothing to compare")
    worst = 0.0
    for name in names:
        truth = np.asarray(wanted[name], np.float64).ravel()
        found = np.asarray(got[name]).ravel()[: truth.size].astype(np.float64)
        error = float(_norm(found - truth) / _norm(truth)) if found.size == truth.size else np.inf
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def _norm(x: np.ndarray) -> np.floating:
    """||x||, without BLAS: its threads spin on after the product, into what is timed next."""
    return np.sqrt(np.square(x).sum())


def summarize(times: Sequence[float]) -> Measurement:
    """Quantiles of samples in nanoseconds."""
    q10, median, q90 = np.quantile(times, [0.1, 0.5, 0.9])
    return Measurement(float(q10), float(median), float(q90), len(times))


def measure(ready: Timed, samples: int) -> Measurement:
    """Warm up once, then take `samples` samples."""
    ready.sample()
    return summarize([ready.sample() for _ in range(samples)])


def duel(
    challenger: Callable[[], float], champion: Callable[[], float], rounds: int, hopeless: float = 1.02
) -> tuple[list[float], list[float]]:
    """Samples of both, taken in turn; a challenger that is `hopeless` times slower after three rounds gets no more."""
    challenger(), champion()
    mine: list[float] = []
    theirs: list[float] = []
    for i in range(rounds):
        order = ((challenger, mine), (champion, theirs))
        for sample, times in order if i % 2 else order[::-1]:
            times.append(sample())
        if i == 2 and np.median(mine) > hopeless * np.median(theirs):
            break
    return mine, theirs


def rematch(candidates: Sequence[Timed], rounds: int, probe: Probe) -> tuple[list[Measurement], float]:
    """Time candidates against each other, in turn, so that a machine that drifts drifts for all of them.

    The probe takes a turn too. Returns the measurements and the probe's bytes a second, the median.
    """
    for c in candidates:
        c.sample()
    times: list[list[float]] = [[] for _ in candidates]
    reads = []
    for i in range(rounds):
        reads.append(probe.seconds())
        for k in range(len(candidates)):
            k = (k + i) % len(candidates)  # nobody always follows the same neighbour
            times[k].append(candidates[k].sample())
    return [summarize(t) for t in times], probe.nbytes / float(np.median(reads))
