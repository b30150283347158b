"""Judges tuned against untuned by what both reached in the same rounds.

A busy machine slows both sides of a round, so the ratio within a round says more than the two medians do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

SAME = 1.05
"""Ratios of rounds that lie within this factor of each other agree."""
NOT_NOW = "not measurable now"
"""What is said where rounds differ by more than the two sides do."""


@dataclass(frozen=True)
class Speedup:
    """ratios: tuned over untuned, tokens per second, one a round. alternating: whether both ran within each round."""

    ratios: tuple[float, ...]
    alternating: bool = True

    @classmethod
    def of(cls, untuned: Sequence[float], tuned: Sequence[float], alternating: bool = True) -> "Speedup":
        """Of tokens per second, round by round."""
        return cls(tuple(after / before for before, after in zip(untuned, tuned, strict=True)), alternating)

    @property
    def median(self) -> float:
        return median(self.ratios)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)

    @property
    def measurable(self) -> bool:
        """Whether the rounds say who is faster, or that neither is: no round may be further from the median than the
        median is from 1, which rounds on both sides of 1 are."""
        (low, high), middle = self.range, self.median
        spread, difference = max(high / middle, middle / low), max(middle, 1.0 / middle)
        return len(self.ratios) > 1 and (spread < difference or high <= low * SAME)

    @property
    def cell(self) -> str:
        """The ratio as a table shows it, with its range; a single round has none."""
        if len(self.ratios) == 1:
            return f"{self.median:.2f}× in one round"
        low, high = self.range
        return f"{self.median:.2f}× ({low:.2f}–{high:.2f})" if self.measurable else f"{NOT_NOW} ({low:.2f}–{high:.2f})"

    @property
    def verdict(self) -> str:
        """One clause: who is faster, or that these rounds do not say."""
        (low, high), rounds = self.range, len(self.ratios)
        if rounds == 1:
            return f"tuned {self.median:.2f}× untuned in a single round: no verdict"
        spread = f"{low:.2f} to {high:.2f} in {rounds} rounds"
        apart = "" if self.alternating else "; memory holds one engine, so they ran one after the other"
        if not self.measurable:
            return f"{NOT_NOW}: rounds differ by more than the sides ({spread}{apart})"
        if low > 1.0:
            return f"tuned {self.median:.2f}× untuned ({spread}{apart})"
        if high < 1.0:
            return f"tuned is slower, {self.median:.2f}× untuned ({spread}{apart})"
        return f"no difference ({spread}{apart})"
