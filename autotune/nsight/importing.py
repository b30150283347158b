"""Reading a profiler's file, whichever it is: recognized by what is in it, never by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotune.nsight import files, helion_log, joining, ncu_csv, ncu_rep, nsys_csv, nsys_sqlite
from tuning_db import TuningDB, profiles
from tuning_db.profile_records import Profile


@dataclass(frozen=True)
class Summary:
    """What became of a file. joined: launches whose problem and configuration are known; total_ns: of all rows."""

    file: str
    format: str
    profile: int
    found: int
    expected: int | None
    joined: int
    total_ns: float
    note: str


@dataclass(frozen=True)
class Recognizer:
    """One kind of file. recognizes: by the first bytes; load: read, join, store; raises UserError."""

    name: str
    recognizes: Callable[[bytes, Path], bool]
    load: Callable[[Path, TuningDB], Summary]


def _recognizer(name: str, recognizes: Callable[[bytes], bool], read: Callable[[Path], Profile]) -> Recognizer:
    return Recognizer(name, lambda head, _: recognizes(head), lambda path, db: keep(read(path), db))


RECOGNIZERS = (
    _recognizer("Nsight Compute report", ncu_rep.recognizes, ncu_rep.read),
    _recognizer("Nsight Systems export", nsys_sqlite.recognizes, nsys_sqlite.read),
    _recognizer("Nsight Compute CSV, page details", ncu_csv.is_details, ncu_csv.read_details),
    _recognizer("Nsight Compute CSV, page raw", ncu_csv.is_raw, ncu_csv.read_raw),
    _recognizer("CSV of nsys stats", nsys_csv.recognizes, nsys_csv.read),
    _recognizer("Helion autotune log", helion_log.recognizes, helion_log.read),
)


def recognize(path: Path) -> Recognizer | None:
    """None for a file of no kind that is known. Raises UserError for one that is empty or cannot be read."""
    head = files.head_of(path)
    if not head:
        raise files.unusable(path, "is empty", "record or export it again")
    return next((kind for kind in RECOGNIZERS if kind.recognizes(head, path)), None)


def keep(profile: Profile, db: TuningDB) -> Summary:
    """Join a profile to what the database knows, and store it."""
    joined = joining.joined(profile, db)
    number = profiles.store(db, joined)
    p = joined.provenance
    known = sum(1 for launch in joined.launches if launch.problem is not None)
    total = sum(launch.duration_ns or 0.0 for launch in joined.launches)
    return Summary(p.file, p.format, number, p.found, p.expected, known, total, p.note)
