"""Compiled candidates judged by their machine code: ranked by a bound on their time, and what cannot win dropped.

The rules, in the order in which they are tried; the first that applies gives the reason:
1. what does not compile, or no multiprocessor holds, cannot run;
2. the same machine code, launched alike, is the same candidate;
3. what spills registers waits for memory where others do not;
4. a bound above `MARGIN` times the lowest bound is beaten by who is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.screen import estimate
from autotune.screen.chips import Chip
from autotune.screen.compiling import Candidate
from autotune.screen.estimate import Estimate, Kernel
from kernel_templates.space import Config

MARGIN = 1.5


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
    """Best first: those kept by their bounds, then those dropped, those without a bound last. work_bytes: that the
    problem must move. Raises ValueError for a chip that is not known."""
    judged = []
    for candidate in candidates:
        kernels = tuple(estimate.kernel(b, chip) for b in candidate.kernels)
        bound = estimate.estimate(kernels, work_bytes, chip) if kernels else None
        judged.append((candidate, kernels, bound))
    lowest = min((e.bound for _, kernels, e in judged if e and _impossible(kernels) is None), default=0.0)
    seen: dict[tuple[str, ...], Config] = {}
    verdicts = []
    for candidate, kernels, bound in judged:
        digests = tuple(k.digest for k in candidate.kernels)
        first = seen.setdefault(digests, candidate.config) if digests else candidate.config
        rule, reason = None, None
        if candidate.failure:
            rule, reason = "failed", candidate.failure
        elif reason := _impossible(kernels):
            rule = "impossible"
        elif first != candidate.config:
            rule, reason = "twin", f"the same machine code as {first.key}"
        elif reason := _spills(kernels):
            rule = "spills"
        elif bound is not None and bound.bound > MARGIN * lowest:
            rule = bound.limit
            reason = f"at least {bound.bound / 1e3:.2f} µs by {rule}, {bound.bound / lowest:.2f} times the lowest bound"
        verdicts.append(Verdict(candidate.config, kernels, bound, rule, reason))
    return sorted(verdicts, key=lambda v: (not v.kept, v.estimate.bound if v.estimate else float("inf")))


def _impossible(kernels: Sequence[Kernel]) -> str | None:
    for k in kernels:
        if not k.occupancy.programs:
            return f"{k.facts.name}: no multiprocessor holds a program, for want of {k.occupancy.by}"
    return None


def _spills(kernels: Sequence[Kernel]) -> str | None:
    for k in kernels:
        if k.facts.spills:
            return f"{k.facts.name}: {k.facts.spills} bytes of a thread do not fit its registers"
    return None
