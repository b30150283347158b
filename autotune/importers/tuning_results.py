"""The tuning results that importers read from other tuners' files, and how they are stored as a run."""

from dataclasses import dataclass

import numpy as np

from kernel_templates.device import Device
from tuning_db import TuningDB
from tuning_db import field_checks as f
from tuning_db.records import Measurement, Run, RunStatus, Trial


@dataclass(frozen=True)
class TuningResults:
    """One run with its trials. file: without its folder; started_at, finished_at: UTC in ISO 8601; uid: its name in the
    database that it was exported from; each None if unknown."""

    file: str
    format: str
    device: Device
    run: Run
    trials: tuple[Trial, ...]
    status: RunStatus = RunStatus.FINISHED
    started_at: str | None = None
    finished_at: str | None = None
    uid: str | None = None


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
    number = db.add_run(
        results.device, results.run, list(results.trials), results.status.value, results.started_at,
        results.finished_at, results.uid,
    )  # fmt: skip
    failed = sum(trial.measurement is None for trial in results.trials)
    return ResultsSummary(
        results.file, results.format, results.device.chip, results.run.problem, number, len(results.trials), failed,
        "" if db.info()["runs"] > before else "this run is in the database already; nothing was added",
    )  # fmt: skip


def quantiles(nanoseconds: list[float]) -> Measurement:
    """Raises ValueError for a time that no kernel takes."""
    try:
        f.list_of(f.number(*f.NANOSECONDS))(nanoseconds)
    except ValueError as wrong:
        raise ValueError(f"nanoseconds cannot be {wrong}") from None
    low, middle, high = np.quantile(nanoseconds, [0.1, 0.5, 0.9])
    return Measurement(float(low), float(middle), float(high), len(nanoseconds))


def foreign_device(name: str) -> Device:
    """A device of which another tool tells only the name."""
    return Device("cuda", name, "unknown", 0, 0)


def foreign_run(problem: str, tool: str, count: int) -> Run:
    """A run of another tool. Its work in bytes and operations is not known, so no rate is shown."""
    return Run(problem, 0, f"imported: {tool}", 0, count, 0, 0)
