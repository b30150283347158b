"""Stores a profile in the tuning database, its kernels matched to the problems that the database knows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.profiling import match_kernels
from tuning_db import TuningDB, profiles
from tuning_db.profile_records import Profile, RowKind

_WORDS = {
    RowKind.KERNEL: ("kernel", "kernels"), RowKind.GRAPH: ("graph", "graphs"), RowKind.COPY: ("copy", "copies"),
    RowKind.FILL: ("fill", "fills"), RowKind.SUMMARY: ("sum", "sums"), RowKind.TRIAL: ("trial", "trials"),
}  # fmt: skip


@dataclass(frozen=True)
class ProfileSummary:
    """A stored profile. joined: launches whose problem and configuration are known; total_ns: of the rows
    that have a time, None where none has; untimed: rows without one; kinds: rows by RowKind; tables: of other things
    than launches."""

    file: str
    format: str
    profile: int
    found: int
    expected: int | None
    joined: int
    total_ns: float | None
    untimed: int
    note: str
    kinds: Mapping[str, int]
    tables: int

    @property
    def line(self) -> str:
        partial = self.expected is not None and self.found < self.expected
        count = f"partial, {self.found} of {self.expected}" if partial else f"{self.found} row{'s' * (self.found != 1)}"
        if len(self.kinds) > 1:
            count += f" ({', '.join(f'{number} {_words(kind, number)}' for kind, number in self.kinds.items())})"
        if self.tables:
            count += f", {self.tables} table{'s' * (self.tables > 1)}"
        spent = "times unknown" if self.total_ns is None else f"{self.total_ns / 1e3:.1f} µs in all"
        if self.total_ns is not None and self.untimed:
            spent += f", {self.untimed} without a time"
        return f"{self.format}, {count}, {self.joined} of ours, {spent}; profile {self.profile}"


def store(profile: Profile, db: TuningDB) -> ProfileSummary:
    """Raises OverflowError or ValueError where the profile has a number that no column can hold."""
    joined = match_kernels.joined(profile, db)
    number = profiles.store(db, joined)
    p = joined.provenance
    known = sum(1 for launch in joined.launches if launch.problem is not None)
    times = [launch.duration_ns for launch in joined.launches if launch.duration_ns is not None]
    untimed = len(joined.launches) - len(times)
    total = sum(times) if times else None
    kinds = Counter(launch.kind for launch in joined.launches)
    return ProfileSummary(
        p.file, p.format, number, p.found, p.expected, known, total, untimed, p.note,
        {kind.value: number for kind, number in kinds.items()}, len(joined.tables),
    )  # fmt: skip


def _words(kind: str, number: int) -> str:
    one, several = _WORDS[RowKind(kind)]
    return one if number == 1 else several
