"""Whether a candidate's outputs are the reference's, for every backend."""

from collections.abc import Mapping

import numpy as np


class WrongResult(Exception):
    """The candidate's output is not the reference's; `error` is the relative error, inf for NaN."""

    def __init__(self, error: float, tolerance: float):
        super().__init__(f"relative error {error:.3g} is above the tolerance {tolerance:.3g}")
        self.error = error


def verify(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float) -> float:
    """The relative error of the outputs. Raises WrongResult when it is not within the tolerance."""
    error = relative_error(got, wanted)
    if not error <= tolerance:
        raise WrongResult(error, tolerance)
    return error


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
