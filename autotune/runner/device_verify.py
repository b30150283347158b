"""Large outputs compared with their reference on the device: a pass over 2,048 tokens has millions of values, which the
host would need a second for, and the tuner verifies every candidate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates import verify
from kernel_templates.verify import Deviation

LARGE = 1 << 20  # values of an output from which on it is compared there


class DeviceVerifier:
    """Compares outputs with references, of which those on the device are kept there."""

    def __init__(self, device: str):
        self._device = device
        self._kept: dict[int, tuple[np.ndarray, torch.Tensor]] = {}  # by the array's id, and the array, which keeps it

    def verify(self, got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float) -> float:
        """As `kernel_templates.verify.verify`. Raises torch.OutOfMemoryError too."""
        found = {name: self._deviation(got[name], wanted[name]) for name in verify.common(got, wanted)}
        return verify.judge(found, tolerance)

    def forget(self) -> None:
        self._kept.clear()

    def _deviation(self, got: np.ndarray, wanted: np.ndarray) -> Deviation:
        if wanted.size < LARGE or got.size < wanted.size:
            return verify.deviation(got, wanted)
        if id(wanted) not in self._kept:
            truth = torch.from_numpy(np.ascontiguousarray(wanted, np.float64)).to(self._device).ravel()
            self._kept[id(wanted)] = wanted, truth
        truth = self._kept[id(wanted)][1]
        found = torch.from_numpy(np.ascontiguousarray(got)).to(self._device).ravel()[: truth.numel()].double()
        return deviation(found, truth, got.dtype == np.float16)


def deviation(found: torch.Tensor, truth: torch.Tensor, half: Any) -> Deviation:
    """Of float64 tensors [n], as `kernel_templates.verify.deviation`."""
    apart = (found - truth).abs_()
    squares = truth.square().sum()
    error = float((apart.square().sum() / squares).sqrt())
    rms = (squares / truth.count_nonzero().clamp(min=1)).sqrt()
    peak = float((apart / (truth.abs() + rms)).max())
    return Deviation(error if np.isfinite(error) else np.inf, peak, bool(half))
