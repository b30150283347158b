"""Explains why a problem runs with its configuration on a device, in words and numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kernel_templates.device import Device
from tuning_db import shipped
from tuning_db.records import Lookup, Outcome, Source, StoredRun, StoredWinner, TrialKind, searched
from tuning_db.store import TuningDB

WORDS = {
    Source.EXACT: "Tuned for this very device",
    Source.SAME_CHIP: "Tuned on this chip with other software",
    Source.SHIPPED: "Shipped with autotune",
    Source.NEAREST_SHAPE: "Not tuned; borrowed from the nearest shape on this chip",
    Source.NEAREST_CHIP: "Not tuned on this chip; borrowed from another one",
    Source.DEFAULT: "Not tuned; the template's default",
}


@dataclass(frozen=True)
class Explanation:
    """answer: what a model would run with; stored: its row, and run: its run, if this file has them. second: the
    second best configuration known on the winner's device, its nanoseconds, and whether both met in one rematch;
    refused: configurations that computed wrongly here; proved: when the answer's computed right here, None if it was
    not proved yet; trials, failed: made for the winner's problem on its device, all runs together; decided: how the
    final comparison ended, empty where that is not known."""

    problem: str
    answer: Lookup
    stored: StoredWinner | None
    run: StoredRun | None
    second: tuple[Mapping[str, Any], float, bool] | None
    trials: int
    failed: int
    decided: str = ""
    refused: Sequence[Mapping[str, Any]] = ()
    proved: datetime | None = None

    def sentences(self) -> list[str]:
        """One sentence or two a line."""
        winner = self.answer.winner
        said = [f"{self.problem}", f"{WORDS[self.answer.source]}: {self.answer.detail}."]
        said += [f"Refused, for it computes wrongly here: {_settings(config)}." for config in self.refused]
        if winner is None:
            return said
        said.append(f"Configuration: {_settings(winner.config)}.")
        measured = winner.measurement
        line = (
            f"It took {measured.median_ns / 1e3:.2f} µs (median of {measured.samples}; a tenth below "
            f"{measured.q10_ns / 1e3:.2f}, a tenth above {measured.q90_ns / 1e3:.2f})"
        )
        if winner.default_ns:
            line += f", the default {winner.default_ns / 1e3:.2f} µs: {winner.default_ns / measured.median_ns:.2f}×"
        said.append(f"{line}.")
        if self.decided:
            said.append(f"In the final comparison: {self.decided}.")
        against = winner.reference or "the float64 reference"
        said.append(f"Verified against {against}: relative error {winner.error:.2e}, allowed {winner.tolerance:.2e}.")
        said.append(
            f"Proved on this device on {self.proved:%Y-%m-%d}."
            if self.proved
            else "Not proved on this device yet: that is done before its first use."
        )
        if self.second is not None:
            config, ns, together = self.second
            other = {n: v for n, v in config.items() if winner.config.get(n) != v}
            apart = "when it was tried; they did not meet in the final comparison"
            met = "in the same comparison" if together else apart
            said.append(
                f"Second best, {ns / measured.median_ns - 1:+.1%}: {_settings(other) or 'the same'}, {ns / 1e3:.2f} µs "
                f"{met}."
            )
        if self.run is not None:
            run = self.run.run
            size = f" of {run.space_size:,} configurations" if run.space_size else ""
            said.append(
                f"Found by run {self.run.id} (sampler {run.sampler}, seed {run.seed}, {self.run.status.value}); "
                f"{self.trials} trials{size}, {self.failed} failed."
            )
        versions = winner.versions or (self.run.run.versions if self.run else {})
        if versions:
            said.append("Measured with " + ", ".join(f"{n} {v}" for n, v in sorted(versions.items())) + ".")
        if winner.clock_mhz:
            said.append(f"The chip ran at {winner.clock_mhz:.0f} MHz.")
        return said


def known_problems(db: TuningDB, device: Device) -> list[str]:
    """Keys of every problem that this file, or what is shipped for this chip, has a winner of."""
    own = {w.winner.problem for w in db.winners()}
    return sorted(own | {row["problem"] for row in shipped.of_chip(device.chip_key)})


def explain(
    db: TuningDB, device: Device, problem: str, template_version: int,
    proved: Callable[[Mapping[str, Any]], datetime | None] = lambda config: None,
) -> Explanation:  # fmt: skip
    """proved: when a configuration of this problem was proved on the device, None if it was not.

    Raises DatabaseError."""
    refused = db.refused(device)
    answer = db.lookup_all(device, [(problem, template_version)], refused)[problem]
    told: dict[str, Any] = {"refused": tuple(refused.get(problem, ()))}
    if answer.winner is None:
        return Explanation(problem, answer, None, None, None, 0, 0, **told)
    told["proved"] = proved(answer.winner.config)
    stored = next((w for w in db.best(answer.winner.problem) if w.winner == answer.winner), None)
    if stored is None:  # shipped: its run is elsewhere
        return Explanation(problem, answer, None, None, None, 0, 0, **told)
    run = next((r for r in db.runs(stored.device) if r.id == stored.run_id), None)
    trials = db.past_trials(stored.device, answer.winner.problem, template_version)
    met = {_settings(t.config): t for t in (db.trials(run.id) if run else []) if t.kind is TrialKind.FINAL_COMPARISON}
    best: dict[str, tuple[Mapping[str, Any], float]] = {}
    for trial in trials:
        if trial.outcome is Outcome.OK and trial.measurement is not None:
            best[_settings(trial.config)] = (trial.config, trial.measurement.median_ns)  # the last time counts
    own = _settings(answer.winner.config)
    rivals = {name: found for name, found in best.items() if name in met} or best
    second = min((r for name, r in rivals.items() if name != own), key=lambda r: r[1], default=None)
    runner_up = None if second is None else (*second, _settings(second[0]) in met)
    failed = searched(t for t in trials if t.outcome not in (Outcome.OK, Outcome.PRUNED))
    final = met.get(own)
    decided = final.message if final is not None and final.message else ""
    return Explanation(problem, answer, stored, run, runner_up, searched(trials), failed, decided, **told)


def _settings(config: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(config.items()))
