"""Scales: map numbers to places on an axis and choose round ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """low, high: numbers at the two ends; begin, end: their places in pixels; ticks: round numbers between them."""

    low: float
    high: float
    begin: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return round(self.begin + (value - low) / (high - low) * (self.end - self.begin), 1)


def scale(
    values: Iterable[float], begin: float, end: float, log: bool = False, zero: bool = False, most: int = 6
) -> Scale:
    """One that has room for all finite values (above 0, if logarithmic). zero: it starts there; most: ticks."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if log:
        low, high = low / 1.15, high * 1.15
        return Scale(low, high, begin, end, True, _log_ticks(low, high, most))
    low = min(low, 0.0) if zero else low
    if high <= low:
        low, high = (
            (low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)) if not zero else (0.0, abs(low) or 1.0)
        )
    step = _step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(n * step, 12) for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], begin, end, False, ticks)


def _step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = tuple(d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high)
        if len(ticks) <= most:
            break
    return ticks[:: math.ceil(len(ticks) / most)] if ticks else (low,)
