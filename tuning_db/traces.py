"""Traces in the database: the rows of a profile that have a start and a duration, read as arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuning_db import profiles, validation
from tuning_db.errors import translated
from tuning_db.reading import Reader
from tuning_db.trace_records import KINDS, NEVER, UNKNOWN, Trace

_NAMES = (
    "kind", "kernel", "start_ns", "duration_ns", "device", "process", "stream", "range_place", "bytes", "direction",
    "place", "called_ns",
)  # fmt: skip
_START = _NAMES.index("start_ns")
_LATEST = 1 << 62  # ns from the clock's zero; an end is later by at most 1e18, and still an int64
_ROWS = f"""
    SELECT {", ".join(_NAMES)} FROM profile_launches
    WHERE profile_id = ? AND start_ns IS NOT NULL AND duration_ns IS NOT NULL
        AND kind IN ({", ".join(f"'{kind.value}'" for kind in KINDS)})
    ORDER BY start_ns, place
"""


def load(db: Reader, number: int) -> Trace:
    """The trace of the profile with this id, without rows where it has none. Raises KeyError if there is no such
    profile. A row that makes no sense is left out, with a warning."""
    about, ranges = profiles.provenance(db, number), profiles.ranges(db, number)
    with translated(db.path):
        rows = db._connection.execute(_ROWS, (number,)).fetchall()
    try:
        _check(rows)
    except ValueError:
        rows = [row for row in rows if _makes_sense(db, row)]
    columns = dict(zip(_NAMES, zip(*rows, strict=True) if rows else [()] * len(_NAMES), strict=True))
    names, name = _coded(columns["kernel"])
    directions, direction = _coded(columns["direction"])
    kinds = {kind.value: place for place, kind in enumerate(KINDS)}
    inside = [place if place is not None and place < len(ranges) else UNKNOWN for place in columns["range_place"]]
    return Trace(
        names, directions, about.devices, ranges,
        kind=np.array([kinds[kind] for kind in columns["kind"]], np.uint8), name=name,
        start_ns=np.array(columns["start_ns"], np.int64),
        duration_ns=np.rint(np.array(columns["duration_ns"], np.float64)).astype(np.int64),
        device=_numbers(columns["device"]), process=_numbers(columns["process"]), stream=_numbers(columns["stream"]),
        range=np.array(inside, np.int32), bytes=_numbers(columns["bytes"]), direction=direction,
        place=_numbers(columns["place"]),
        called_ns=np.array([NEVER if called is None else called for called in columns["called_ns"]], np.int64),
        waits=profiles.waits(db, number),
    )  # fmt: skip


def _check(rows: Sequence[tuple[Any, ...]]) -> None:
    validation.rows("profile_launches", _NAMES, rows)
    if any(abs(row[_START]) > _LATEST for row in rows):
        raise ValueError("start_ns cannot be centuries away")


def _makes_sense(db: Reader, row: tuple[Any, ...]) -> bool:
    try:
        _check([row])
    except ValueError as error:
        db._warn("profile_launches", str(error))
        return False
    return True


def _numbers(column: Sequence[int | None]) -> np.ndarray:
    return np.array([UNKNOWN if value is None else value for value in column], np.int64)


def _coded(column: Sequence[str | None]) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct words in the order they come, and each row's place among them."""
    places = {word: place for place, word in enumerate(dict.fromkeys(word for word in column if word is not None))}
    return tuple(places), np.array([UNKNOWN if word is None else places[word] for word in column], np.int32)
