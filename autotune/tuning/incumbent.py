"""The incumbent configuration of a layer, and what paired comparisons with it tell of the layer's kernels."""

import math
from collections.abc import Sequence

from autotune.tuning.neighborhood import Neighborhood
from kernel_templates.space import Config

KEPT = 4  # the last incumbents, which meet again in the final comparison
CACHED_S = 0.1  # what took less to compile was in the cache


class Incumbent:
    """The best configuration so far; a candidate replaces it after a paired comparison.

    times: of each kernel's blocks that were tried in context, what the layer took with it as a share of the first
    incumbent's time, infinite for a failure. A block is a kernel's part of a configuration.
    """

    def __init__(self, neighborhood: Neighborhood):
        self._neighborhood = neighborhood
        self.config: Config | None = None
        self.median_ns = math.inf
        self.last: list[Config] = []
        self.times: dict[str, dict[Config, float]] = {kernel: {} for kernel in neighborhood.kernels}
        self._errors: dict[str, dict[Config, float]] = {kernel: {} for kernel in neighborhood.kernels}
        self._level = 1.0  # the incumbent's time as a share of the first one's
        self._compiling: dict[str, tuple[float, int]] = {}  # seconds and configurations, by kernel

    def replace(self, config: Config, median_ns: float, ratio: float = 1.0) -> None:
        """ratio: of its time to the incumbent's until now."""
        self._level *= ratio
        self.config, self.median_ns = config, median_ns
        self.last = [*self.last, config][-KEPT:]
        for kernel, times in self.times.items():
            block = self._neighborhood.block(kernel, config)
            times[block] = min(times.get(block, math.inf), self._level)

    def verified(self, config: Config, error: float | None) -> None:
        """Note that a configuration's outputs were right."""
        for kernel, errors in self._errors.items():
            errors.setdefault(self._neighborhood.block(kernel, config), error or 0.0)

    def is_verified(self, config: Config) -> bool:
        """Whether each of its kernels was verified as part of some configuration."""
        return all(self._neighborhood.block(kernel, config) in errors for kernel, errors in self._errors.items())

    def error(self, config: Config) -> float:
        """The largest relative error that its kernels were verified with."""
        return max(errors.get(self._neighborhood.block(kernel, config), 0.0) for kernel, errors in self._errors.items())

    def compared(self, changed: Sequence[str], config: Config, ratio: float, compile_s: float | None) -> None:
        """Learn from a change of one kernel. ratio: to the incumbent's time, infinite for a failure."""
        if len(changed) != 1:
            return
        (kernel,) = changed
        self.times[kernel][self._neighborhood.block(kernel, config)] = ratio * self._level
        if compile_s is not None and compile_s > CACHED_S:
            seconds, count = self._compiling.get(kernel, (0.0, 0))
            self._compiling[kernel] = (seconds + compile_s, count + 1)

    @property
    def mean_compile_s(self) -> dict[str, float]:
        """By kernel, of those that had to be compiled."""
        return {kernel: seconds / count for kernel, (seconds, count) in self._compiling.items()}
