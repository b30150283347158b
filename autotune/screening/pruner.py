"""Screening while a problem is tuned: what a compiled candidate needs no measurement for, said in microseconds.

A duplicate binary, whose machine code was measured before, takes that measurement; a candidate whose lower bound lies
above the best time found so far cannot win. Both are recorded.
"""

from collections.abc import Sequence
from dataclasses import replace

from autotune.screening import chips, lower_bound
from autotune.screening.binary import KernelResources
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db.records import Outcome, Trial


class Pruner:
    """Of one problem on one device; of a device of which too little is known, it only finds duplicates."""

    def __init__(self, device: Device, work_bytes: int, default: Config, read_gb_s: float | None = None):
        """default: the configuration whose kernels a compiler leaves out when another has them too."""
        self._work, self._default = work_bytes, default
        self._of_default: tuple[KernelResources, ...] = ()
        self._measured: dict[tuple[str, ...], Trial] = {}
        try:
            self._chip = chips.of(device, read_gb_s) if device.backend == "cuda" else None
        except ValueError:
            self._chip = None

    def prune(
        self, config: Config, facts: Sequence[KernelResources | None], compile_s: float, best_ns: float | None
    ) -> Trial | None:
        """The Trial of what need not be measured, None for the others. facts: of its kernels, None for those that are
        the default's. The default is always measured."""
        kernels = self._complete(config, facts)
        if not kernels or config == self._default:
            return None
        duplicate = self._measured.get(_digests(kernels))
        if duplicate is not None:
            message = f"the same machine code as {Config(duplicate.config).key}"
            return replace(duplicate, config=dict(config), compile_s=compile_s, message=message)
        if self._chip is None or best_ns is None:
            return None
        looked = [lower_bound.kernel(k, self._chip) for k in kernels]
        bound = lower_bound.estimate(looked, self._work, self._chip)
        if not bound.bound > best_ns:
            return None
        reason = f"at least {bound.bound / 1e3:.2f} µs by {bound.limit}; the best takes {best_ns / 1e3:.2f}"
        return Trial(dict(config), Outcome.PRUNED, compile_s=compile_s, message=reason)

    def remember(self, config: Config, facts: Sequence[KernelResources | None], trial: Trial) -> None:
        """What duplicates of a measured candidate will be told."""
        kernels = self._complete(config, facts)
        if kernels:
            self._measured.setdefault(_digests(kernels), trial)

    def _complete(self, config: Config, facts: Sequence[KernelResources | None]) -> tuple[KernelResources, ...]:
        """Empty as long as the default's kernels are not known."""
        if config == self._default:
            self._of_default = tuple(f for f in facts if f is not None)
        if all(f is not None for f in facts):
            return tuple(f for f in facts if f is not None)
        if len(self._of_default) != len(facts):
            return ()
        return tuple(mine or default for mine, default in zip(facts, self._of_default, strict=True))


def _digests(kernels: Sequence[KernelResources]) -> tuple[str, ...]:
    return tuple(k.digest for k in kernels)
