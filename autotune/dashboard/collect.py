"""Reads the database and the benchmark files; writes nothing. A file that is no benchmark is an error of one line."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.benchmarking.benchmark_result import parse
from autotune.dashboard.page_data import BenchmarkFile, Database, DeviceData, File, PageData, Peer, RunData
from tuning_db import field_checks, open_db, profiles
from tuning_db.field_checks import Fields
from tuning_db.timed_trials import TimedTrial, timed_trials

LARGEST_BENCHMARK = 16 << 20  # bytes; a real one has 20 kB


def collect(database: Path | None, against: Path | None = None, benchmarks: Sequence[Path] = ()) -> PageData:
    """database: None for the usual one. Raises UserError and DatabaseError."""
    return PageData(
        read_database(database),
        None if against is None else read_database(against),
        tuple(read_benchmark(path) for path in benchmarks),
    )


def read_database(path: Path | None) -> Database:
    with open_db(path, readonly=True) as db:
        devices = tuple(
            DeviceData(
                device,
                {name: value for name, value in (db.ceilings(device) or {}).items() if name != "measured_at"},
            )
            for device in db.devices()
        )
        trials: dict[int, list[TimedTrial]] = defaultdict(list)
        for trial in timed_trials(db):
            trials[trial.run_id].append(trial)
        return Database(
            file=_file(db.path),
            schema=int(db.info()["schema_version"]),
            devices=devices,
            runs=tuple(RunData(run, tuple(trials[run.id])) for run in db.runs()),
            winners=tuple(db.winners()),
            profiles=tuple(profiles.load(db, stored.id) for stored in profiles.listed(db)),
        )


def read_benchmark(path: Path) -> BenchmarkFile:
    """A document of `autotune bench --json` or of `scripts/bench_gpu`. Raises UserError."""
    file = _file(path)
    if file.size_bytes > LARGEST_BENCHMARK:
        raise UserError(f"{path} is too large for a benchmark file; give what autotune bench --json printed")
    try:
        outer = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON; give what autotune bench --json printed") from None
    try:
        made = Fields(outer)
        result = parse(made.values.get("bench", outer))
        date = made.take("date", field_checks.text(), "")
    except ValueError as error:
        raise UserError(f"{path} is not what autotune bench --json prints: {error}") from None
    return BenchmarkFile(file, result, _peer(made.values.get("marks")), date[:10])


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
