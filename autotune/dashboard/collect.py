"""Reads the database and the files beside it; writes nothing. A file that is not what it should be is an error of one
line."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.benchmarking.benchmark_result import parse
from autotune.dashboard.page_data import (
    BenchmarkFile,
    Database,
    DeviceData,
    File,
    PageData,
    Peer,
    PrecisionFile,
    RunData,
)
from autotune.precision import precision_result
from tuning_db import field_checks, open_db, profiles, traces
from tuning_db.field_checks import Fields
from tuning_db.reading import Reader
from tuning_db.timed_trials import TimedTrial, timed_trials

LARGEST = 16 << 20  # bytes; a real benchmark has 20 kB, what `autotune precision` prints of 64 layers 400 kB


def collect(
    database: Path | None, against: Path | None = None, benchmarks: Sequence[Path] = (),
    precisions: Sequence[Path] = (), traced: bool = False,
) -> PageData:  # fmt: skip
    """database: None for the usual one; traced: launches that only a timeline knows as launches too, not only in
    `Database.traces`. Raises UserError and DatabaseError."""
    return PageData(
        read_database(database, traced),
        None if against is None else read_database(against),
        tuple(read_benchmark(path) for path in benchmarks),
        tuple(read_precision(path) for path in precisions),
    )


def read_database(path: Path | None, traced: bool = False) -> Database:
    with open_db(path, readonly=True) as db:
        devices = tuple(
            DeviceData(
                device,
                {name: value for name, value in (db.ceilings(device) or {}).items() if name != "measured_at"},
            )
            for device in db.devices()
        )
        stored_profiles = profiles.listed(db)
        return Database(
            file=_file(db.path),
            schema=int(db.info()["schema_version"]),
            devices=devices,
            runs=read_runs(db),
            winners=tuple(db.winners()),
            profiles=tuple(profiles.load(db, stored.id, traced) for stored in stored_profiles),
            traces=tuple(traces.load(db, stored.id) for stored in stored_profiles),
        )


def read_runs(db: Reader) -> tuple[RunData, ...]:
    """Every run with its trials."""
    trials: dict[int, list[TimedTrial]] = defaultdict(list)
    for trial in timed_trials(db):
        trials[trial.run_id].append(trial)
    return tuple(RunData(run, tuple(trials[run.id])) for run in db.runs())


def read_benchmark(path: Path) -> BenchmarkFile:
    """A document of `autotune bench --json` or of `scripts/bench_gpu`. Raises UserError."""
    file, outer = _document(path, "autotune bench")
    try:
        made = Fields(outer)
        result = parse(made.values.get("bench", outer))
        date = made.take("date", field_checks.text(), "")
    except ValueError as error:
        raise UserError(f"{path} is not what autotune bench --json prints: {error}") from None
    return BenchmarkFile(file, result, _peer(made.values.get("marks")), date[:10])


def read_precision(path: Path) -> PrecisionFile:
    """A document of `autotune precision --json`. Raises UserError."""
    file, document = _document(path, "autotune precision")
    try:
        return PrecisionFile(file, precision_result.parse(document))
    except ValueError as error:
        raise UserError(f"{path} is not what autotune precision --json prints: {error}") from None


def _document(path: Path, command: str) -> tuple[File, Any]:
    """What a command printed with --json. Raises UserError."""
    file = _file(path)
    if file.size_bytes > LARGEST:
        raise UserError(f"{path} is too large; give what {command} --json printed")
    try:
        return file, json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON; give what {command} --json printed") from None


def _peer(marks: Any) -> Peer | None:
    """None where there are no marks, or none that can be used."""
    try:
        found = Fields(marks)
        decode = found.take("decode", field_checks.list_of(field_checks.number(1e-9, 1e12)))
        return Peer(found.take("engine", field_checks.text()), tuple(map(float, decode))) if decode else None
    except ValueError:
        return None


def _file(path: Path) -> File:
    """A database that is not there yet counts as an empty one."""
    digest, size = hashlib.sha256(), 0
    try:
        if path.exists():
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    return File(path.name, digest.hexdigest(), size)
