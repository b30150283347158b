"""The database as JSON lines: what `autotune db export` writes, `import` reads, and shipped winners are kept in.

The first line is {"autotune_db": 2}; every other one is a record: an object with its "kind". Records refer to each
other by names that are the same everywhere (`tuning_db.uids`), so they can be added to any database, in any order of
files, twice. Lines are sorted and every object has its names sorted: the same records are the same text.

A trial's error or tolerance that is not finite is the text "inf" or "nan".

Format 1 had no "trial_kind": the message "rematch" marked the trials of a final comparison. It is still read.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tuning_db import field_checks, validation
from tuning_db.records import TrialKind
from tuning_db.rows import canonical_json

FORMAT = 2
HEADER = canonical_json({"autotune_db": FORMAT})
LONGEST_LINE = 1 << 22  # characters: a record has a few fields of at most `field_checks.LONGEST_JSON`
DEVICE_FIELDS = tuple(validation.TABLES["devices"])

# JSON has no infinity and no NaN; SQLite has the first of the two.
NOT_FINITE = {"inf": math.inf, "nan": None}
_MAY_BE_INFINITE = ("error", "tolerance")

# Of every kind, in the order in which the kinds are written: the table it becomes a row of; the table's columns that
# have another name here; and what names a row of another table.
_NAME, _KEY = field_checks.text(64, empty=False), validation.TABLES["problems"]["key"]
_KINDS: dict[str, tuple[str, dict[str, str], dict[str, field_checks.Check]]] = {
    "device": ("devices", {}, {}),
    "ceilings": ("", {}, {
        "device": _NAME, "values": field_checks.mapping_of(field_checks.scalar), "measured_at": field_checks.date,
    }),
    "space": ("spaces", {}, {}),
    "run": ("runs", {"versions": "run_versions"}, {
        "device": _NAME, "problem": _KEY, "space": field_checks.maybe(_NAME),
    }),
    "trial": ("run_trials", {"trial_kind": "kind"}, {"run": _NAME}),
    "winner": ("winners", {"versions": "winner_versions"}, {"device": _NAME, "problem": _KEY}),
}  # fmt: skip
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset({*validation.TABLES.get(table, {}), *other} - {*other.values()} | {*others})
    for kind, (table, other, others) in _KINDS.items()
}
"""The fields of every kind, in the order in which the kinds are written."""


class BadLine(ValueError):
    """The message is one line that says where and what."""


def write(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The header and a line for each record, as they come."""
    yield HEADER
    for record in records:
        endless = {name: "inf" for name in _MAY_BE_INFINITE if record.get(name) == math.inf}
        yield canonical_json({**record, **endless})


def read_text(text: str, name: str, left_out: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """`read` of a whole text. Only a newline ends a line: JSON may hold the others that `splitlines` knows."""
    return read(text.split("\n"), name, left_out)


def read(lines: Iterable[str], name: str, left_out: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The records of a text from anywhere; `name` says in complaints which. A line that makes no sense raises BadLine,
    or is left out and said in `left_out`. Raises BadLine for a text that is no export at all."""
    version = None
    for number, line in enumerate(lines, 1):
        if version is None:
            version = _format_of(line, name)
        elif line.strip():
            try:
                record = _object(line)
                yield check(_from_format_1(record) if version == 1 else record)
            except ValueError as error:
                if left_out is None:
                    raise BadLine(f"{name}, line {number}: {error}") from None
                left_out.append(f"line {number}: {error}")
    if version is None:
        raise BadLine(f"{name} is empty, not an export of autotune")


def check(record: dict[str, Any]) -> dict[str, Any]:
    """The record itself. Raises ValueError for one that no database should hold."""
    kind = record.get("kind")
    if type(kind) is not str or kind not in _KINDS:
        raise ValueError(f"no kind of record is called {field_checks.shown(kind)}")
    fields = KINDS[kind]
    if record.keys() - {"kind"} != fields:
        odd = sorted(record.keys() - {"kind"} ^ fields)[0]
        lacks = "no" if odd in fields else "an unknown"
        raise ValueError(f"a {kind} has {lacks} field {field_checks.shown(odd)}")
    _check_fields(kind, record)
    return record


def _check_fields(kind: str, record: Mapping[str, Any]) -> None:
    table, other, others = _KINDS[kind]
    for name, holds in others.items():
        try:
            holds(record[name])
        except ValueError as wrong:
            raise ValueError(f"{name} of a {kind} cannot be {wrong}") from None
    if kind == "ceilings":
        for name, value in record["values"].items():
            validation.check(
                "device_ceilings", {"name": name, "value": value, "measured_at": record["measured_at"]},
                owner=" of ceilings",
            )  # fmt: skip
        return
    values = {name: value for name, value in record.items() if name not in others and name != "kind"}
    validation.check(table, values, other, f" of a {kind}")


def _object(line: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} characters")
    try:
        found = json.loads(line, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if found.get("kind") == "trial":
        for name in _MAY_BE_INFINITE:
            if isinstance(found.get(name), str) and found[name] in NOT_FINITE:
                found[name] = NOT_FINITE[found[name]]
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


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
    if type(version) is not int or version < 1:
        raise BadLine(f"{name} is not an export of autotune: its format is {field_checks.shown(version)}")
    if version > FORMAT:
        raise BadLine(
            f"{name} was written by a newer autotune (format {field_checks.shown(version)}, this one knows {FORMAT})"
        )
    return version
