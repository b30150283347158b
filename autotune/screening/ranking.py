"""Ranks compiled candidates by a bound on their time, from their machine code, and drops what cannot win.

The rules, in the order in which they are tried; the first that applies gives the reason:
1. what does not compile, or no multiprocessor holds, cannot run;
2. the same machine code, launched alike, is the same candidate;
3. what spills registers waits for memory where others do not;
4. of those that are left, the share `KEPT` of all that compiled which issues and waits least is kept: the times of
   kernels that move the same bytes follow that sum (docs/log.md says how closely, and what a smaller share cost).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.screening import lower_bound
from autotune.screening.binary import Candidate
from autotune.screening.chips import Chip
from autotune.screening.lower_bound import Estimate, Kernel
from kernel_templates.space import Config

KEPT = 0.35


@dataclass(frozen=True)
class Verdict:
    """rule, reason: by which rule and why it was dropped, None if it was kept; estimate: None for what did not
    compile."""

    config: Config
    kernels: tuple[Kernel, ...]
    estimate: Estimate | None
    rule: str | None = None
    reason: str | None = None

    @property
    def kept(self) -> bool:
        return self.reason is None


def screen(candidates: Sequence[Candidate], work_bytes: int, chip: Chip) -> list[Verdict]:
    """Best first: those kept by what they issue and wait, then those dropped, those that did not compile last.
    work_bytes: that the problem must move. Raises ValueError for a chip that is not known."""
    first: dict[tuple[str, ...], Config] = {}
    verdicts = []
    for candidate in candidates:
        kernels = tuple(lower_bound.kernel(k, chip) for k in candidate.kernels)
        bound = lower_bound.estimate(kernels, work_bytes, chip) if kernels else None
        digests = tuple(k.digest for k in candidate.kernels)
        same = first.setdefault(digests, candidate.config) if digests else candidate.config
        rule, reason = None, None
        if candidate.failure:
            rule, reason = "failed", candidate.failure
        elif reason := _impossible(kernels):
            rule = "impossible"
        elif same != candidate.config:
            rule, reason = "duplicate", f"the same machine code as {same.key}"
        elif reason := _spills(kernels):
            rule = "spills"
        verdicts.append(Verdict(candidate.config, kernels, bound, rule, reason))
    kept = sorted(v.estimate.busy for v in verdicts if v.kept and v.estimate)
    if kept:
        compiled = sum(v.estimate is not None for v in verdicts)
        limit = kept[min(len(kept), max(1, int(KEPT * compiled))) - 1]
        verdicts = [_slow(v, limit) if v.kept else v for v in verdicts]
    return sorted(verdicts, key=lambda v: (not v.kept, v.estimate.busy if v.estimate else float("inf")))


def _slow(verdict: Verdict, limit: float) -> Verdict:
    e = verdict.estimate
    if e is None or e.busy <= limit:
        return verdict
    both = f"issues for {e.issue / 1e3:.2f} and waits for {e.latency / 1e3:.2f} µs, {e.busy / 1e3:.2f} together"
    reason = f"{both}; those kept {limit / 1e3:.2f} at most"
    return replace(verdict, rule="slow", reason=reason)


def _impossible(kernels: Sequence[Kernel]) -> str | None:
    for k in kernels:
        if not k.occupancy.programs:
            return f"{k.resources.name}: no multiprocessor holds a program, for want of {k.occupancy.by}"
    return None


def _spills(kernels: Sequence[Kernel]) -> str | None:
    for k in kernels:
        if k.resources.spills:
            return f"{k.resources.name}: {k.resources.spills} bytes of a thread do not fit its registers"
    return None
