"""What each table may hold: the one gate for records from elsewhere, and for rows that a reader is about to use.

A database is a file that travels: other programs write into it, and other people's are merged. JSON lines, merged
SQLite files and what `pull` brings pass `check` before anything of them is written; a row that was in the file already
passes `row` before it becomes a record. Both ask the same questions of the same columns.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import inf
from types import MappingProxyType
from typing import Any

from kernel_templates.device import Device
from tuning_db import field_checks as f
from tuning_db.field_checks import Check
from tuning_db.profile_records import RowKind
from tuning_db.records import Objective, Outcome, RunStatus, TrialKind

LARGEST_TOLERANCE = 1.0  # relative: an output of zeros is this wrong

_ID = f.whole(*f.INT64)
_TIME, _ENERGY = f.number(*f.NANOSECONDS), f.maybe(f.number(*f.MICROJOULES))
_COUNT, _NAME, _WORDS = f.whole(*f.COUNT), f.text(empty=False), f.text()
_VERSIONS, _CONFIG = f.mapping_of(_WORDS), f.mapping_of(f.scalar)
_NUMBER = f.number(-f.NANOSECONDS[1], f.NANOSECONDS[1])
_ERROR = f.maybe(f.number(0, inf))  # a result with NaN or infinity in it is infinitely wrong
_SOURCE = f.text(1 << 26)
_UID = f.text(64, empty=False)

TABLES: dict[str, dict[str, Check]] = {
    "devices": {
        "fingerprint": _UID, "chip_key": _NAME, "backend": _NAME, "chip": _WORDS, "capability": _WORDS,
        "units": _COUNT, "memory_bytes": _COUNT, "versions": f.list_of(f.tuple_of(_WORDS, _WORDS)),
        "first_seen_at": f.date,
    },
    "device_ceilings": {"name": _NAME, "value": f.number(0, f.NANOSECONDS[1]), "measured_at": f.date},
    "problems": {"key": f.text(1 << 12, empty=False)},
    "spaces": {
        "uid": _UID, "parameters": f.list_of(f.tuple_of(_NAME, f.list_of(f.scalar), f.scalar, _WORDS)),
        "constraints": f.list_of(f.tuple_of(_WORDS, _WORDS)),
    },
    "runs": {
        "uid": _UID, "template_version": f.whole(*f.VERSION), "sampler": _WORDS, "seed": f.whole(*f.INT64),
        "space_size": _COUNT, "work_bytes": _COUNT, "work_ops": _COUNT, "run_versions": _VERSIONS,
        "objective": f.one_of(Objective), "status": f.one_of(RunStatus), "host": _WORDS, "pid": f.whole(*f.PID),
        "started_at": f.date, "finished_at": f.maybe(f.date),
    },
    "run_trials": {
        "number": f.maybe(_COUNT), "config": _CONFIG, "outcome": f.one_of(Outcome), "q10_ns": f.maybe(_TIME),
        "median_ns": f.maybe(_TIME), "q90_ns": f.maybe(_TIME), "samples": f.maybe(_COUNT),
        "state": f.maybe(f.mapping_of(f.document)), "energy_uj": _ENERGY, "compile_s": f.maybe(f.number(0, 1e9)),
        "error": _ERROR, "tolerance": _ERROR, "message": f.maybe(_WORDS), "kind": f.one_of(TrialKind),
        "created_at": f.date,
    },
    "winners": {
        "uid": _UID, "template_version": f.whole(*f.VERSION), "config": _CONFIG, "q10_ns": _TIME, "median_ns": _TIME,
        "q90_ns": _TIME, "samples": _COUNT, "state": f.maybe(f.mapping_of(f.document)), "energy_uj": _ENERGY,
        "default_ns": f.maybe(_TIME), "error": f.number(0, LARGEST_TOLERANCE),
        "tolerance": f.number(0, LARGEST_TOLERANCE), "reference": f.maybe(_WORDS), "winner_versions": _VERSIONS,
        "clock_mhz": f.maybe(f.number(0, 1e6)), "run_uid": f.maybe(_UID), "trial_number": f.maybe(_COUNT),
        "created_at": f.date, "replaced_at": f.maybe(f.date),
    },
    "profiles": {
        "file": _WORDS, "sha256": _UID, "size_bytes": _COUNT, "tool": _WORDS, "format": _WORDS,
        "tool_version": _WORDS, "chip": _WORDS, "clocks": f.mapping_of(_NUMBER), "fingerprint": f.maybe(_WORDS),
        "recorded_at": f.maybe(_WORDS), "found": _COUNT, "expected": f.maybe(_COUNT), "note": _WORDS,
        "metric_names": f.list_of(_WORDS), "metric_units": f.list_of(_WORDS), "imported_at": f.date,
        "devices": f.mapping_of(_WORDS),
    },
    "profile_launches": {
        "place": _COUNT, "kernel": _WORDS, "kind": f.one_of(RowKind),
        **{f"{of}_{axis}": f.maybe(_COUNT) for of in ("grid", "block") for axis in "xyz"},
        "start_ns": f.maybe(f.whole(*f.INT64)), "duration_ns": f.maybe(f.number(0, 1e18)), "count": _COUNT,
        "stream": f.maybe(f.whole(*f.INT64)), "range_place": f.maybe(_COUNT), "problem": f.maybe(_WORDS),
        "config": f.maybe(f.mapping_of(f.document)), "role": f.maybe(_WORDS), "metric_values": f.maybe(f.float64s),
        "metric_texts": f.maybe(f.mapping_of(_WORDS)), "device": f.maybe(_COUNT), "process": f.maybe(_COUNT),
        "bytes": f.maybe(_COUNT), "direction": f.maybe(_WORDS), "called_ns": f.maybe(f.whole(*f.INT64)),
    },
    "profile_findings": {
        "rule": _WORDS, "section": _WORDS, "kind": _WORDS, "title": _WORDS, "text": _SOURCE,
        "gain": f.maybe(_NUMBER), "gain_scope": f.maybe(_WORDS),
        "focus": f.list_of(f.tuple_of(_WORDS, _WORDS, f.scalar)),
    },
    "profile_lines": {
        "address": f.whole(*f.INT64), "sass": _WORDS, "ptx": f.maybe(_WORDS), "file": f.maybe(_WORDS),
        "line": f.maybe(_COUNT), "executed": f.maybe(_COUNT), "stalls": f.mapping_of(_COUNT),
    },
    "profile_ranges": {
        "place": _COUNT, "name": _WORDS, "parent": f.maybe(_COUNT), "domain": _WORDS, "thread": f.maybe(_ID),
        "start_ns": f.maybe(f.whole(*f.INT64)), "end_ns": f.maybe(f.whole(*f.INT64)), "style": _WORDS,
    },
    "profile_waits": {
        "place": _COUNT, "name": _WORDS, "process": f.maybe(_COUNT), "thread": f.maybe(_ID),
        "start_ns": f.whole(*f.INT64), "end_ns": f.whole(*f.INT64),
    },
    "profile_tables": {
        "place": _COUNT, "report": _WORDS, "title": _WORDS, "column_names": f.list_of(_WORDS),
        "column_units": f.list_of(_WORDS),
    },
    "profile_table_rows": {"table_place": _COUNT, "place": _COUNT, "cells": f.list_of(f.maybe(f.scalar))},
    "profile_sources": {"name": _WORDS, "text": _SOURCE},
}  # fmt: skip
"""Of each table the columns that are read, and what each may hold once JSON is decoded."""

JSON_COLUMNS = frozenset(
    {
        "versions", "parameters", "constraints", "run_versions", "config", "state", "winner_versions", "clocks",
        "metric_names", "metric_units", "metric_texts", "focus", "stalls", "devices", "column_names", "column_units",
        "cells",
    }
)  # fmt: skip


def row(table: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one row of a table, JSON decoded. Raises ValueError for what the table may not hold, and KeyError
    for a missing column."""
    values = {}
    for name, check in TABLES[table].items():
        value = found[name]
        try:
            if name in JSON_COLUMNS and value is not None:
                value = _decoded(value)
            check(value)
        except ValueError as wrong:
            raise ValueError(f"{name} cannot be {wrong}") from None
        values[name] = value
    together(table, values)
    return values


def rows(table: str, names: Sequence[str], found: Sequence[tuple[Any, ...]]) -> None:
    """Rows of some columns, JSON not yet decoded: `columns` of them."""
    if found:
        columns(table, names, tuple(zip(*found, strict=True)))


def columns(table: str, names: Sequence[str], found: Sequence[tuple[Any, ...]]) -> None:
    """Columns with one value a row, JSON not yet decoded: what many rows share is looked at once. Raises ValueError for
    the first value that the table may not hold."""
    checks = TABLES[table]
    for name, column in zip(names, found, strict=True):
        types = set(map(type, column))
        values: Iterable[Any] = column
        if types == {int}:
            values = (min(column), max(column))  # what a column may hold of integers is a range
        elif types == {int, type(None)}:
            whole = [value for value in column if value is not None]
            values = (min(whole), max(whole), None)
        elif len(types - {type(None)}) < 2:
            values = set(column)  # of several types not: True, 1 and 1.0 are equal
        for value in values:
            try:
                checks[name](_decoded(value) if name in JSON_COLUMNS and value is not None else value)
            except ValueError as wrong:
                raise ValueError(f"{name} cannot be {wrong}") from None


def check(
    table: str, values: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({}), owner: str = ""
) -> None:
    """A record's fields, JSON decoded already. names: the table's column of each field of another name; owner: whose
    they are, for people. Raises ValueError."""
    for name, value in values.items():
        try:
            TABLES[table][names.get(name, name)](value)
        except ValueError as wrong:
            raise ValueError(f"{name}{owner} cannot be {wrong}") from None
    together(table, values)


def together(table: str, values: Mapping[str, Any]) -> None:
    """What the columns of one row say together. Raises ValueError."""
    if table == "devices":
        named = device(
            values["backend"], values["chip"], values["capability"], values["units"], values["memory_bytes"],
            tuple((name, version) for name, version in values["versions"]),
        )  # fmt: skip
        if (named.fingerprint, named.chip_key) != (values["fingerprint"], values["chip_key"]):
            raise ValueError("the device is not the one that its fingerprint names")
    elif table == "device_ceilings" and values["name"].endswith("_s") and not values["value"] > 0:
        raise ValueError("a rate is not positive")
    elif table == "run_trials":
        timed = [values[name] is not None for name in ("q10_ns", "median_ns", "q90_ns", "samples")]
        if any(timed) and not all(timed):
            raise ValueError("a time lacks its quantiles or its samples")
    elif table == "winners" and not values["error"] <= values["tolerance"]:
        raise ValueError(f"a winner has to be correct: error {values['error']:g} is above {values['tolerance']:g}")


@lru_cache(maxsize=256)
def device(*fields: Any) -> Device:
    """Devices are few and named in every row: their fingerprints are computed once."""
    return Device(*fields)


def _decoded(value: Any) -> Any:
    if type(value) is not str:
        raise ValueError(f"{f.shown(value)}, which is no text")
    if len(value) > f.LONGEST_JSON:
        raise ValueError(f"longer than {f.LONGEST_JSON:,} characters")
    try:
        return json.loads(value, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError(f"{f.shown(value)}, which is no JSON") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
