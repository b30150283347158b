"""Whether a candidate's outputs are the reference's, for every backend."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PEAK = 8.0
"""How many times the tolerance one value may be off, of its own size and all values' RMS together. The errors of honest
rounding are nearly normal: of a million none is beyond 5 standard deviations. A row that is wrong alone is far beyond,
and among thousands of right ones it does not show in the norm."""
FLOAT16 = 2.0**-11
"""The largest relative error of rounding to float16, which a tolerance holds when outputs are stored so."""


class WrongResult(Exception):
    """The candidate's output is not the reference's; `error` is the relative error, inf for NaN."""

    def __init__(self, error: float, tolerance: float, what: str = "relative error"):
        super().__init__(f"{what} {error:.3g} is above the tolerance {tolerance:.3g}")
        self.error = error


@dataclass(frozen=True)
class Deviation:
    """Of one output. error: ||out - ref|| / ||ref||, inf where that is no number; peak: the largest |out - ref| /
    (|ref| + RMS) of any value, the RMS over those of the reference that are not zero; half: it is float16."""

    error: float
    peak: float
    half: bool


def verify(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float) -> float:
    """The relative error of the outputs. Raises WrongResult when it is not within the tolerance, ValueError when no
    name is in both."""
    return judge({name: deviation(got[name], wanted[name]) for name in common(got, wanted)}, tolerance)


def judge(outputs: Mapping[str, Deviation], tolerance: float) -> float:
    """The largest relative error of any output. Raises WrongResult when it is not within the tolerance.

    Where some outputs are float16 and others are not, the others have to do without the share of float16."""
    error = max(output.error for output in outputs.values())
    if not error <= tolerance:
        raise WrongResult(error, tolerance)
    some_half = any(output.half for output in outputs.values())
    for name, output in outputs.items():
        limit = tolerance - FLOAT16 if some_half and not output.half else tolerance
        if output.error > limit:
            raise WrongResult(output.error, limit, f"relative error of {name}")
        if output.peak > PEAK * limit:
            raise WrongResult(output.peak, PEAK * limit, f"a value of {name}: relative error")
    return error


def common(got: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """The outputs that both have. Raises ValueError when there are none."""
    names = sorted(got.keys() & wanted.keys())
    if not names:
        raise ValueError(f"the template gives {sorted(got)} and the reference {sorted(wanted)}: nothing to compare")
    return names


def deviation(got: np.ndarray, wanted: np.ndarray) -> Deviation:
    """What is longer than its reference is padding. Of a reference that is zero everywhere only zeros are right."""
    half = np.asarray(got).dtype == np.float16
    truth = np.asarray(wanted, np.float64).ravel()
    found = np.asarray(got).ravel()[: truth.size].astype(np.float64)
    if found.size != truth.size:
        return Deviation(np.inf, np.inf, half)
    apart = np.abs(found - truth)
    if not truth.any():
        error = 0.0 if not apart.any() else np.inf
        return Deviation(error, error, half)
    error = float(_norm(apart) / _norm(truth))
    rms = np.sqrt(np.square(truth).sum() / max(1, np.count_nonzero(truth)))
    peak = float((apart / (np.abs(truth) + rms)).max()) if truth.size else 0.0
    return Deviation(error if np.isfinite(error) else np.inf, peak, half)


def relative_error(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest ||out - ref|| / ||ref|| over the outputs that both have; NaN and infinity count as infinite.

    What is longer than its reference is padding. Raises ValueError when no name is in both.
    """
    return max(deviation(got[name], wanted[name]).error for name in common(got, wanted))


def _norm(x: np.ndarray) -> np.floating:
    """||x||, without BLAS: its threads spin on after the product, into what is timed next."""
    return np.sqrt(np.square(x).sum())
