"""Two samples of timings: is one faster, or is it noise? With an interval, not a single number.

The interval is of the ratio of medians, by a bootstrap of blocks: samples that follow each other are alike (the clock
drifts), and drawing them one by one would call that drift a difference. The blocks of both sides are drawn together
when the samples were taken in turn, so that what slowed both cancels.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Kuensch, The Jackknife and the Bootstrap for General
Stationary Observations, Annals of Statistics 17, 1989 (moving blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

CONFIDENCE = 0.99
SMALLEST = 0.005  # a difference of less than half a percent is none that anybody would act on
DRAWS = 2000
FEWEST = 5  # samples a side
SEED = 0


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"


@dataclass(frozen=True)
class Comparison:
    """ratio: median after ÷ median before, below 1 is faster; low, high: its interval of CONFIDENCE."""

    verdict: Verdict
    ratio: float
    low: float
    high: float


def compare(before: Sequence[float], after: Sequence[float], in_turn: bool = False) -> Comparison:
    """Times of the same work, in any unit but the same. in_turn: sample i of each was taken right after the other's.

    Raises ValueError for fewer than FEWEST samples, or samples in turn of different number.
    """
    a, b = np.asarray(before, float), np.asarray(after, float)
    if min(len(a), len(b)) < FEWEST:
        raise ValueError(f"comparing needs {FEWEST} samples a side, there are {len(a)} and {len(b)}")
    if in_turn and len(a) != len(b):
        raise ValueError(f"samples taken in turn are as many on each side, not {len(a)} and {len(b)}")
    draw = np.random.default_rng(SEED)
    of_a = _blocks(len(a), draw)
    of_b = of_a if in_turn else _blocks(len(b), draw)
    ratios = np.median(b[of_b], axis=1) / np.median(a[of_a], axis=1)
    low, high = (float(q) for q in np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    ratio = float(np.median(b) / np.median(a))
    if high < 1 and ratio < 1 - SMALLEST:
        verdict = Verdict.BETTER
    elif low > 1 and ratio > 1 + SMALLEST:
        verdict = Verdict.WORSE
    else:
        verdict = Verdict.NOISE
    return Comparison(verdict, ratio, low, high)


def _blocks(size: int, draw: np.random.Generator) -> np.ndarray:
    """int [DRAWS, size]: places drawn in runs of neighbours, as long as the cube root of the size."""
    length = max(1, round(size ** (1 / 3)))
    count = -(-size // length)
    starts = draw.integers(0, size, (DRAWS, count, 1))
    return ((starts + np.arange(length)) % size).reshape(DRAWS, -1)[:, :size]
