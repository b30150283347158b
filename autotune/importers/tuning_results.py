"""The tuning results that importers read from other tuners' files, and how they are stored as a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from autotune import UserError
from kernel_templates.device import Device
from tuning_db import TuningDB
from tuning_db import field_checks as f
from tuning_db.records import IMPORTED, Measurement, Outcome, Run, RunStatus, Trial

# What Kernel Tuner, and files made from its own, have for a configuration that failed: a word, or a number that sorts
# last (1e20, or the largest float64).
FAILURES = {
    "InvalidConfig": Outcome.PRUNED, "CompilationFailedConfig": Outcome.FAILED_TO_COMPILE,
    "RuntimeFailedConfig": Outcome.CRASHED, "ErrorConfig": Outcome.CRASHED,
}  # fmt: skip
FAILED = 1e20
# Beginnings of the words for units of time; the benchmark hub's T4 files say "miliseconds".
_UNITS = (
    (("millisecond", "milisecond", "msec", "ms"), 1e6), (("microsecond", "usec", "us", "µs"), 1e3),
    (("nanosecond", "nsec", "ns"), 1.0), (("second", "sec", "s"), 1e9),
)  # fmt: skip


@dataclass(frozen=True)
class TuningResults:
    """One run with its trials. file: without its folder; started_at, finished_at: UTC in ISO 8601; uid: its name in the
    database that it was exported from; each None if unknown. ended_at: when each trial ended, as the file says it;
    empty if it does not. note: what is missing, for people."""

    file: str
    format: str
    device: Device
    run: Run
    trials: tuple[Trial, ...]
    status: RunStatus = RunStatus.FINISHED
    started_at: str | None = None
    finished_at: str | None = None
    uid: str | None = None
    ended_at: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ResultsSummary:
    """A stored file. found: trials; failed: those of them without a time."""

    file: str
    format: str
    device: str
    problem: str
    run: int
    found: int
    failed: int
    note: str = ""

    @property
    def line(self) -> str:
        count = f"{self.found} result{'s' * (self.found != 1)}, {self.failed} failed"
        return f"{self.format}, {count}; {self.problem} on {self.device}, run {self.run}"


def store(results: TuningResults, db: TuningDB) -> ResultsSummary:
    """Store as a run of its own, unless it is there already."""
    db.remember_device(results.device)
    before = db.info()["runs"]
    started_at, finished_at = results.started_at, results.finished_at
    if started_at is None and results.ended_at:
        started_at, finished_at = min(results.ended_at), max(results.ended_at)
    number = db.add_run(
        results.device, results.run, list(results.trials), results.status.value, started_at, finished_at, results.uid,
        results.ended_at,
    )  # fmt: skip
    failed = sum(trial.measurement is None for trial in results.trials)
    notes = [results.note] if results.note else []
    if db.info()["runs"] == before:
        notes.append("this run is in the database already; nothing was added")
    return ResultsSummary(
        results.file, results.format, results.device.chip, results.run.problem, number, len(results.trials), failed,
        "; ".join(notes),
    )  # fmt: skip


def moments(texts: Sequence[Any]) -> tuple[str, ...]:
    """When trials ended, UTC in ISO 8601, from timestamps as files have them: dates with or without a zone, which are
    then in UTC. Empty where one of them is no date, or earlier than the one before."""
    try:
        given = [datetime.fromisoformat(text) for text in texts]
        found = [moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in given]
        for moment in found:
            f.date(moment.isoformat())
    except (TypeError, ValueError, OverflowError):
        return ()
    return tuple(moment.isoformat() for moment in found) if found == sorted(found) else ()


def timed(config: Mapping[str, Any], times: Sequence[Any], unit: float, compile_s: float | None = None) -> Trial:
    """The trial of a configuration with these times as the file has them, at least one, in a unit of so many
    nanoseconds. It failed where one of them stands for a failure, or is no time that a kernel takes."""
    for time in times:
        if failed := failure(config, time, compile_s):
            return failed
        if type(time) not in (int, float) or not f.NANOSECONDS[0] <= time * unit <= f.NANOSECONDS[1]:
            what = "no time" if time is None else f"a time of {f.shown(time)}"
            return Trial(config, Outcome.CRASHED, compile_s=compile_s, message=f"failed: {what}")
    low, middle, high = np.quantile([time * unit for time in times], [0.1, 0.5, 0.9])
    return Trial(
        config, Outcome.OK, Measurement(float(low), float(middle), float(high), len(times)), compile_s=compile_s
    )


def failure(config: Mapping[str, Any], value: Any, compile_s: float | None) -> Trial | None:
    """The trial of a configuration with this for its time, in whatever unit, if that stands for a failure."""
    if isinstance(value, str) and value in FAILURES:
        return Trial(config, FAILURES[value], compile_s=compile_s, message=value)
    if type(value) in (int, float) and not -FAILED < value < FAILED:  # NaN too
        return Trial(config, Outcome.CRASHED, compile_s=compile_s, message=f"failed: a time of {value:g}")
    return None


def is_time(objective: str, unit: str = "") -> bool:
    """Whether an objective is a time: by its unit, or without one by a name such as "time" or "kernel_time"."""
    if unit:
        return nanoseconds_of(unit) is not None
    return objective.lower().rpartition("_")[2] in ("time", "runtime", "duration")


def no_time(path: Path, objective: str) -> UserError:
    """The error for a file of results that were measured in something else."""
    return UserError(
        f"{path} has results in {objective!r:.40}, which is no time; runs measured in time can be imported"
    )


def nanoseconds_of(unit: str) -> float | None:
    """Nanoseconds in one of a unit of time, as tuners' files spell it; None for another unit."""
    word = unit.strip().lower()
    return next((factor for names, factor in _UNITS if word in names or word.removesuffix("s") in names), None)


def foreign_device(name: str, file: str) -> Device:
    """A device of which another tool tells only the name, if that; file: whose unnamed device it is else."""
    return Device("cuda", (name.strip() or f"unnamed device of {file}")[:100], "unknown", 0, 0)


def foreign_run(problem: str, tool: str, count: int) -> Run:
    """A run of another tool. Its work in bytes and operations is not known, so no rate is shown."""
    return Run(problem, 0, IMPORTED + tool, 0, count, 0, 0)
