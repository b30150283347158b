"""Whether a candidate's outputs are the reference's, for every backend."""

from collections.abc import Mapping

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


def verify(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float) -> float:
    """The relative error of the outputs. Raises WrongResult when it is not within the tolerance.

    Where some outputs are float16 and others are not, the others have to do without the share of float16."""
    error = relative_error(got, wanted)
    if not error <= tolerance:
        raise WrongResult(error, tolerance)
    names = got.keys() & wanted.keys()
    halves = {name for name in names if np.asarray(got[name]).dtype == np.float16}
    for name in names:
        limit = tolerance - FLOAT16 if halves and name not in halves else tolerance
        own = relative_error({name: got[name]}, {name: wanted[name]})
        if own > limit:
            raise WrongResult(own, limit, f"relative error of {name}")
        peak = _largest(got[name], wanted[name])
        if peak > PEAK * limit:
            raise WrongResult(peak, PEAK * limit, f"a value of {name}: relative error")
    return error


def _largest(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest |out - ref| / (|ref| + RMS) of any value; the RMS over those that are not zero."""
    truth = np.asarray(wanted, np.float64).ravel()
    found = np.asarray(got).ravel()[: truth.size].astype(np.float64)
    rms = np.sqrt(np.square(truth).sum() / max(1, np.count_nonzero(truth)))
    return float((np.abs(found - truth) / (np.abs(truth) + rms)).max())


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
