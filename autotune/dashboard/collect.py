"""Files -> facts. Reads only. A benchmark file is untrusted: what it lacks or has in another shape is one line."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.dashboard.page_data import Bench, Database, DeviceFacts, Facts, File, RunFacts
from tuning_db import open_db, profiles
from tuning_db.timed_trials import TimedTrial, timed_trials

LARGEST_BENCH = 16 << 20  # bytes; a real one has 20 kB


def collect(database: Path | None, against: Path | None = None, benches: Sequence[Path] = ()) -> Facts:
    """database: None for the usual one. Raises UserError and DatabaseError."""
    return Facts(
        read_database(database),
        None if against is None else read_database(against),
        tuple(read_bench(path) for path in benches),
    )


def read_database(path: Path | None) -> Database:
    with open_db(path, readonly=True) as db:
        devices = tuple(
            DeviceFacts(
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
            runs=tuple(RunFacts(run, tuple(trials[run.id])) for run in db.runs()),
            winners=tuple(db.winners()),
            profiles=tuple(profiles.load(db, stored.id) for stored in profiles.listed(db)),
        )


def read_bench(path: Path) -> Bench:
    """A document of `autotune bench --json` or of `scripts/bench_gpu`. Raises UserError."""
    file = _file(path)
    if file.size_bytes > LARGEST_BENCH:
        raise UserError(f"{path} is too large for a benchmark file; give what autotune bench --json printed")
    try:
        outer = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON; give what autotune bench --json printed") from None
    inner = outer.get("bench", outer) if isinstance(outer, dict) else None
    if not _is_bench(inner):
        raise UserError(f"{path} is not what autotune bench --json --device cuda:0 prints")
    assert isinstance(inner, dict)
    marks = outer.get("marks")
    return Bench(file, inner, marks if _is_marks(marks) else None, str(outer.get("date", ""))[:10])


def _is_bench(document: Any) -> bool:
    """Has what the pages use, in the types that they expect."""
    try:
        numbers: list[Any] = [document["device"]["read_gb_s"]]
        texts = [document["model"], document["device"]["chip"]]
        for side in ("untuned", "tuned"):
            numbers.append(document[side]["prefill_tok_s"])
            for row in document[side]["decode"].values():
                numbers += [row[name] for name in ("tok_s", "gb_s", "share", "kernels_per_token")]
            for row in document["operations"][side]:
                texts.append(row["kernel"])
                numbers += [row["count"], row["us"]]
                numbers += [row[name] for name in ("bytes", "gb_s", "share") if row[name] is not None]
        return (
            all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
            and all(isinstance(t, str) for t in texts)
            and isinstance(document.get("versions", {}), dict)
            and bool(document["tuned"]["decode"])
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_marks(marks: Any) -> bool:
    try:
        pairs = [*marks["decode"], *(marks["prefill"] or ())]
        return isinstance(marks["engine"], str) and bool(marks["decode"]) and all(float(n) > 0 for n in pairs)
    except (KeyError, TypeError, ValueError):
        return False


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
