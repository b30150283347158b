"""Decides a final comparison: what runs untuned keeps its place unless a candidate is faster beyond chance.

Samples are taken in turn, so those of one round are a pair, and what a busy machine does to a round is done to both. A
candidate is clearly faster when the median of the logarithms of its paired ratios lies below zero by more than BOUND
standard errors, and by more than what one configuration, sampled twice in every round, differs from itself. The
standard error of a median of n values is 1.2533 σ/√n; σ is 1.4826 times their median absolute deviation (both hold
for normal values: Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", 1993).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.runner.protocol import FinalistsCompared
from autotune.runner.timing import summarize
from kernel_templates.space import Config
from tuning_db.records import Measurement, Objective, Source

BOUND = 4.0  # standard errors; σ of 15 rounds is itself uncertain, and of several candidates the luckiest is looked at
OTHER_GAIN = 0.98  # of a baseline's energy, of which there is one count only
BORROWED = "borrowed configuration"  # was never compared with the default for this problem
DEFAULT = "default"
NOTICEABLE = 0.97  # of the time that runs untuned: what seems to gain as much, and may be chance, is said to
FEWEST = 5  # rounds from which anything follows

STANDING = {
    Source.EXACT: "earlier winner",
    Source.SAME_CHIP: "earlier winner",
    Source.SHIPPED: "shipped configuration",
    Source.NEAREST_SHAPE: BORROWED,
    Source.NEAREST_CHIP: BORROWED,
}
"""What a problem's configuration is called that a model would run with were there no run."""


@dataclass(frozen=True)
class Rounds:
    """A final comparison. samples: nanoseconds of each configuration, round by round; again: of the first one, a second
    time in every round; score: what is made small, of each; paired: whether that is time."""

    samples: Mapping[Config, Sequence[float]]
    again: Sequence[float]
    score: Mapping[Config, float]
    paired: bool = True

    def ratio(self, config: Config, other: Config) -> float:
        """Of their times, or of what else is made small."""
        if not self.paired:
            return self.score[config] / self.score[other]
        return math.exp(float(np.median(self._logs(config, other))))

    def least(self, config: Config, other: Config) -> float:
        """The ratio below which `config` is faster than `other` beyond chance."""
        if not self.paired:
            return OTHER_GAIN
        ratios, null = self._logs(config, other), self._null()
        if len(ratios) < FEWEST:
            return 0.0
        sigma = 1.4826 * max(_deviation(ratios), _deviation(null))
        chance = BOUND * 1.2533 * sigma / math.sqrt(len(ratios))
        return math.exp(-max(chance, abs(float(np.median(null)))))

    def clearly_faster(self, config: Config, other: Config) -> bool:
        """Whether `config` is faster than `other` beyond chance."""
        return self.ratio(config, other) < self.least(config, other)

    def _logs(self, config: Config, other: Config) -> np.ndarray:
        return np.log(np.asarray(self.samples[config]) / np.asarray(self.samples[other]))

    def _null(self) -> np.ndarray:
        first = next(iter(self.samples.values()))
        return np.log(np.asarray(self.again) / np.asarray(first))


@dataclass(frozen=True)
class Compared:
    """What a final comparison gave for each configuration that works, and in which order: as the worker replied."""

    measurements: Mapping[Config, Measurement]
    errors: Mapping[Config, float]
    samples: Mapping[Config, Sequence[float]]
    again: Sequence[float]
    read_bytes_s: float

    @classmethod
    def of(cls, configs: Sequence[Config], reply: FinalistsCompared) -> "Compared":
        return cls(
            dict(zip(configs, reply.measurements, strict=True)), dict(zip(configs, reply.errors, strict=True)),
            dict(zip(configs, reply.samples, strict=True)), reply.again, reply.read_bytes_s,
        )  # fmt: skip

    def joined(self, later: "Compared") -> "Compared":
        """All rounds of the configurations that work in both."""
        samples = {c: [*self.samples[c], *times] for c, times in later.samples.items()}
        measurements = {}
        for config, measured in later.measurements.items():
            all_ = summarize(samples[config])
            measurements[config] = replace(all_, state=measured.state, energy_uj=measured.energy_uj)
        return Compared(measurements, later.errors, samples, [*self.again, *later.again], later.read_bytes_s)

    def rounds(self, objective: Objective) -> Rounds:
        scores = {config: objective.of(m) for config, m in self.measurements.items()}
        known = {config: math.inf if score is None else score for config, score in scores.items()}
        return Rounds(self.samples, self.again, known, objective is Objective.TIME)


@dataclass(frozen=True)
class Verdict:
    """config: the winner; kept: what it was before, such as "default", empty for a candidate that took over; reason:
    one line; unclear: whether more rounds might have told a candidate from what was kept."""

    config: Config
    kept: str
    reason: str
    unclear: bool = False


def decide(found: Rounds, baselines: Mapping[Config, str], may_win: Callable[[Config], bool]) -> Verdict:
    """baselines: what is run untuned, and its name, the one that keeps its place first; those that do not work, or may
    not win, do not count. Raises ValueError when nothing may win."""
    able = [config for config in found.samples if may_win(config)]
    standing = [config for config in baselines if config in able]
    if not standing:
        best = min(able, key=found.score.__getitem__)
        return Verdict(best, "", "the fastest; nothing untuned that could be compared with it works")
    kept = standing[0]
    for other in standing[1:]:
        if found.clearly_faster(other, kept) or (baselines[kept] == BORROWED and found.ratio(other, kept) < 1.0):
            kept = other
    name, rivals = baselines[kept], [config for config in able if config not in standing]
    if not rivals:
        return Verdict(kept, name, f"{name} kept: nothing else was compared")
    winners = [
        config for config in rivals
        if found.clearly_faster(config, kept) and all(found.ratio(config, other) <= 1.0 for other in standing)
    ]  # fmt: skip
    if winners:
        best = min(winners, key=found.score.__getitem__)
        told = f"differences above {1 - found.least(best, kept):.1%} are not chance"
        return Verdict(best, "", f"took {found.ratio(best, kept):.3f} of the {name}'s; {told}")
    closest = min(rivals, key=lambda config: found.ratio(config, kept))
    ratio, least = found.ratio(closest, kept), found.least(closest, kept)
    now = "not measurable now; " if ratio < NOTICEABLE else ""
    return Verdict(
        kept, name,
        f"{name} kept: {now}the best other took {ratio:.3f} of it, which below {least:.3f} would be no chance",
        ratio < 1.0,
    )  # fmt: skip


def _deviation(values: np.ndarray) -> float:
    """The median absolute deviation."""
    return float(np.median(np.abs(values - np.median(values))))
