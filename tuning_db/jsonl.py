"""The database as JSON lines: what `autotune db export` writes, `import` reads, and shipped winners are kept in.

The first line is {"autotune_db": 2}; every other one is a record: an object with its "kind". Records refer to each
other by names that are the same everywhere (`tuning_db.uids`), so they can be added to any database, in any order of
files, twice. Lines are sorted and every object has its names sorted: the same records are the same text.

Format 1 had no "trial_kind": the message "rematch" marked the trials of a final comparison. It is still read.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kernel_templates.device import Device
from tuning_db.records import Objective, Outcome, RunStatus, TrialKind
from tuning_db.rows import canonical_json

FORMAT = 2
HEADER = canonical_json({"autotune_db": FORMAT})
DEVICE_FIELDS = ("backend", "chip", "capability", "units", "memory_bytes", "versions", "fingerprint", "chip_key")
TIMES = ("q10_ns", "median_ns", "q90_ns")

_TEXT, _WHOLE, _NUMBER, _OBJECT, _LIST = (str,), (int,), (int, float), (dict,), (list,)
_MAYBE = (type(None),)
_MEASURED = {
    **dict.fromkeys(TIMES, _NUMBER), "samples": _WHOLE, "state": (*_OBJECT, *_MAYBE), "energy_uj": (*_NUMBER, *_MAYBE),
}  # fmt: skip
_UNMEASURED = {name: (*types, *_MAYBE) for name, types in _MEASURED.items()}
# Of every kind the fields and their types, in the order in which the kinds are written.
KINDS: dict[str, dict[str, tuple[type, ...]]] = {
    "device": {
        "fingerprint": _TEXT, "chip_key": _TEXT, "backend": _TEXT, "chip": _TEXT, "capability": _TEXT, "units": _WHOLE,
        "memory_bytes": _WHOLE, "versions": _LIST, "first_seen_at": _TEXT,
    },
    "ceilings": {"device": _TEXT, "values": _OBJECT, "measured_at": _TEXT},
    "space": {"uid": _TEXT, "parameters": _LIST, "constraints": _LIST},
    "run": {
        "uid": _TEXT, "device": _TEXT, "problem": _TEXT, "template_version": _WHOLE, "sampler": _TEXT, "seed": _WHOLE,
        "space": (*_TEXT, *_MAYBE), "space_size": _WHOLE, "work_bytes": _WHOLE, "work_ops": _WHOLE, "versions": _OBJECT,
        "objective": _TEXT, "status": _TEXT, "host": _TEXT, "pid": _WHOLE, "started_at": _TEXT,
        "finished_at": (*_TEXT, *_MAYBE),
    },
    "trial": {
        "run": _TEXT, "number": _WHOLE, "config": _OBJECT, "outcome": _TEXT, **_UNMEASURED,
        "compile_s": (*_NUMBER, *_MAYBE), "error": (*_NUMBER, *_MAYBE), "tolerance": (*_NUMBER, *_MAYBE),
        "message": (*_TEXT, *_MAYBE), "trial_kind": _TEXT, "created_at": _TEXT,
    },
    "winner": {
        "uid": _TEXT, "device": _TEXT, "problem": _TEXT, "template_version": _WHOLE, "config": _OBJECT, **_MEASURED,
        "default_ns": (*_NUMBER, *_MAYBE), "error": _NUMBER, "tolerance": _NUMBER, "reference": (*_TEXT, *_MAYBE),
        "versions": _OBJECT, "clock_mhz": (*_NUMBER, *_MAYBE), "run_uid": (*_TEXT, *_MAYBE),
        "trial_number": (*_WHOLE, *_MAYBE), "created_at": _TEXT, "replaced_at": (*_TEXT, *_MAYBE),
    },
}  # fmt: skip


class BadLine(ValueError):
    """The message is one line that says where and what."""


def write(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The header and a line for each record, as they come."""
    yield HEADER
    for record in records:
        yield canonical_json(record)


def read(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """The records of a text from anywhere; `name` says in complaints which. Raises BadLine."""
    version = None
    for number, line in enumerate(lines, 1):
        if version is None:
            version = _format_of(line, name)
        elif line.strip():
            try:
                record = _object(line)
                yield check(_from_format_1(record) if version == 1 else record)
            except ValueError as error:
                raise BadLine(f"{name}, line {number}: {error}") from None
    if version is None:
        raise BadLine(f"{name} is empty, not an export of autotune")


def check(record: dict[str, Any]) -> dict[str, Any]:
    """The record itself. Raises ValueError for one that no database should hold."""
    fields = KINDS.get(str(record.get("kind")))
    if fields is None:
        raise ValueError(f"no kind of record is called {str(record.get('kind'))[:40]!r}")
    if record.keys() - {"kind"} != fields.keys():
        odd = sorted(record.keys() - {"kind"} ^ fields.keys())[0]
        raise ValueError(f"a {record['kind']} has {'no' if odd in fields else 'an unknown'} field {odd[:40]!r}")
    for name, types in fields.items():
        value = record[name]
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{name} of a {record['kind']} cannot be {str(value)[:40]!r}")
        if isinstance(value, int | float) and not abs(value) < 1 << 63:  # nor NaN
            raise ValueError(f"{name} of a {record['kind']} is out of range")
    _sensible(record)
    return record


def _sensible(record: Mapping[str, Any]) -> None:
    kind = record["kind"]
    if kind == "device":
        device = Device(
            record["backend"], record["chip"], record["capability"], record["units"], record["memory_bytes"],
            tuple((str(name), str(version)) for name, version in record["versions"]),
        )  # fmt: skip
        if (device.fingerprint, device.chip_key) != (record["fingerprint"], record["chip_key"]):
            raise ValueError("the device is not the one that its fingerprint names")
    elif kind == "ceilings":
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in record["values"].values()):
            raise ValueError("a ceiling is not a number")
    elif kind == "run":
        RunStatus(record["status"])
        Objective(record["objective"])
    elif kind == "trial":
        Outcome(record["outcome"])
        TrialKind(record["trial_kind"])
    if record.get("median_ns") is not None and not all(record[name] and record[name] > 0 for name in TIMES):
        raise ValueError("a time is not positive")
    if record.get("energy_uj") is not None and not record["energy_uj"] > 0:
        raise ValueError("an energy is not positive")
    if kind == "winner" and not 0 <= record["error"] <= record["tolerance"]:
        raise ValueError(f"a winner has to be correct: error {record['error']:g} is above {record['tolerance']:g}")


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _from_format_1(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("kind") != "trial":
        return record
    if record.get("message") == "rematch":
        return {**record, "message": None, "trial_kind": TrialKind.FINAL_COMPARISON.value}
    return {**record, "trial_kind": TrialKind.SEARCH.value}


def _format_of(line: str, name: str) -> int:
    """Raises BadLine for a first line that is no header, or one of a format that is not known."""
    try:
        version = _object(line).get("autotune_db")
    except ValueError:
        version = None
    if version is None:
        raise BadLine(f"{name} is not an export of autotune: its first line is not {HEADER}")
    if version not in range(1, FORMAT + 1):
        raise BadLine(f"{name} was written by a newer autotune (format {version}, this one knows {FORMAT})")
    return int(version)
