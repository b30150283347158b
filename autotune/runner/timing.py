"""How candidates of every backend are sampled: alone, in turn with the incumbent, or in turn with other finalists.

What is compared is timed in turn, sample by sample: a machine whose clock drifts then drifts for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tuning_db.records import Measurement


class Timed(Protocol):
    """A candidate that is ready to be timed."""

    def sample(self) -> float:
        """Nanoseconds a call takes."""


class Probe(Protocol):
    """Reads `nbytes` of memory in `seconds()`."""

    nbytes: int

    def seconds(self) -> float: ...


def summarize(times: Sequence[float]) -> Measurement:
    """Quantiles of samples in nanoseconds."""
    q10, median, q90 = np.quantile(times, [0.1, 0.5, 0.9])
    return Measurement(float(q10), float(median), float(q90), len(times))


def measure(candidate: Timed, samples: int) -> Measurement:
    """Warm up once, then take `samples` samples."""
    candidate.sample()
    return summarize([candidate.sample() for _ in range(samples)])


def compare_pair(
    candidate: Callable[[], float], incumbent: Callable[[], float], rounds: int, hopeless: float = 1.02
) -> tuple[list[float], list[float]]:
    """Samples of both, taken in turn; a candidate that is `hopeless` times slower after three rounds gets no more."""
    candidate(), incumbent()
    mine: list[float] = []
    theirs: list[float] = []
    for i in range(rounds):
        order = ((candidate, mine), (incumbent, theirs))
        for sample, times in order if i % 2 else order[::-1]:
            times.append(sample())
        if i == 2 and np.median(mine) > hopeless * np.median(theirs):
            break
    return mine, theirs


@dataclass(frozen=True)
class Finals:
    """samples: nanoseconds of each candidate, round by round; again: of the first, a second time in every round: what
    two times of one candidate differ by; read_bytes_s: bytes a second of the probe, the median."""

    samples: tuple[tuple[float, ...], ...]
    again: tuple[float, ...]
    read_bytes_s: float

    @property
    def measurements(self) -> list[Measurement]:
        return [summarize(times) for times in self.samples]


def compare_finalists(candidates: Sequence[Timed], rounds: int, probe: Probe) -> Finals:
    """Time candidates in turn, the probe among them."""
    for c in candidates:
        c.sample()
    entries = [*candidates[:2], candidates[0], *candidates[2:]]
    times: list[list[float]] = [[] for _ in entries]
    reads = []
    for i in range(rounds):
        reads.append(probe.seconds())
        for k in range(len(entries)):
            k = (k + i) % len(entries)  # none always follows the same neighbour
            times[k].append(entries[k].sample())
    again = times.pop(min(2, len(candidates)))
    return Finals(tuple(map(tuple, times)), tuple(again), probe.nbytes / float(np.median(reads)))
