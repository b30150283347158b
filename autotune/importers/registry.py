"""Reading a profiler's file, whichever it is: recognized by what is in it, never by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotune.importers import helion_log, ncu_csv, ncu_rep, nsys_csv, nsys_sqlite, report_files
from autotune.profiling import match_kernels
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

    @property
    def line(self) -> str:
        """For whoever imported it."""
        partial = self.expected is not None and self.found < self.expected
        count = f"partial, {self.found} of {self.expected}" if partial else f"{self.found} row{'s' * (self.found != 1)}"
        spent = f"{self.total_ns / 1e3:.1f} µs in all"
        return f"{self.format}, {count}, {self.joined} of ours, {spent}; profile {self.profile}"


@dataclass(frozen=True)
class Recognizer:
    """One kind of file. recognizes: by the first bytes; load: read, join, store; raises UserError."""

    name: str
    recognizes: Callable[[bytes, Path], bool]
    load: Callable[[Path, TuningDB], Summary]


def _recognizer(name: str, recognizes: Callable[[bytes], bool], read: Callable[[Path], Profile]) -> Recognizer:
    def load(path: Path, db: TuningDB) -> Summary:
        try:
            return keep(read(path), db)
        except (OverflowError, ValueError) as error:  # what no column can hold
            raise report_files.unusable(path, f"is damaged: {error}", "record or export it again") from None

    return Recognizer(name, lambda head, _: recognizes(head), load)


RECOGNIZERS = (
    _recognizer("Nsight Compute report", ncu_rep.recognizes, ncu_rep.read),
    _recognizer("Nsight Systems export", nsys_sqlite.recognizes, nsys_sqlite.read),
    _recognizer("Nsight Compute CSV, page details", ncu_csv.is_details, ncu_csv.read_details),
    _recognizer("Nsight Compute CSV, page raw", ncu_csv.is_raw, ncu_csv.read_raw),
    _recognizer("CSV of nsys stats", nsys_csv.recognizes, nsys_csv.read),
    _recognizer("Helion autotune log", helion_log.recognizes, helion_log.read),
)


def keep(profile: Profile, db: TuningDB) -> Summary:
    """Join a profile to what the database knows, and store it."""
    joined = match_kernels.joined(profile, db)
    number = profiles.store(db, joined)
    p = joined.provenance
    known = sum(1 for launch in joined.launches if launch.problem is not None)
    total = sum(launch.duration_ns or 0.0 for launch in joined.launches)
    return Summary(p.file, p.format, number, p.found, p.expected, known, total, p.note)
