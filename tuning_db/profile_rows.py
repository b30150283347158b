"""Profiles to table rows and back. Reading raises ValueError, TypeError or KeyError on a row that makes no sense."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tuning_db import validation
from tuning_db.profile_records import (
    Columns,
    HostWait,
    KernelLaunch,
    Metric,
    Metrics,
    Profile,
    Provenance,
    Range,
    ReportTable,
    RowKind,
    RuleFinding,
    SourceLine,
    StoredProfile,
)
from tuning_db.rows import Row, canonical_json

LAUNCH_COLUMNS = (
    "place", "kernel", "kind", "grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "start_ns",
    "duration_ns", "count", "stream", "range_place", "problem", "config", "role", "metric_values", "metric_texts",
    "device", "process", "bytes", "direction", "called_ns",
)  # fmt: skip
_KINDS = {kind: kind.value for kind in RowKind}  # asked for a hundred thousand times
RANGE_COLUMNS = ("place", "name", "parent", "domain", "thread", "start_ns", "end_ns", "style")
WAIT_COLUMNS = ("place", "name", "process", "thread", "start_ns", "end_ns")
TABLE_ROW_COLUMNS = ("table_place", "place", "cells")


def profile_row(profile: Profile) -> dict[str, Any]:
    p = profile.provenance
    # One list of metrics for the whole profile: a launch keeps only its values.
    columns = next((launch.metrics.columns for launch in profile.launches if launch.metrics.columns.names), Columns())
    return {
        "file": p.file, "sha256": p.sha256, "size_bytes": int(p.size_bytes), "tool": p.tool, "format": p.format,
        "tool_version": p.tool_version, "chip": p.chip, "clocks": canonical_json(dict(p.clocks)),
        "fingerprint": p.fingerprint, "recorded_at": p.recorded_at, "found": int(p.found), "expected": p.expected,
        "note": p.note, "devices": canonical_json({str(number): name for number, name in p.devices.items()}),
        "metric_names": canonical_json(columns.names), "metric_units": canonical_json(columns.units),
    }  # fmt: skip


def provenance_from(found: Row) -> Provenance:
    row = validation.row("profiles", found)
    return Provenance(
        file=row["file"], sha256=row["sha256"], size_bytes=int(row["size_bytes"]), tool=row["tool"],
        format=row["format"], tool_version=row["tool_version"], chip=row["chip"], clocks=row["clocks"],
        fingerprint=row["fingerprint"], recorded_at=row["recorded_at"], found=int(row["found"]),
        expected=None if row["expected"] is None else int(row["expected"]), note=row["note"],
        devices={int(number): name for number, name in row["devices"].items()},
    )  # fmt: skip


def stored_profile_from(row: Row) -> StoredProfile:
    return StoredProfile(int(row["id"]), provenance_from(row), int(row["rows"]), row["total_ns"], row["imported_at"])


def columns_from(row: Row) -> Columns:
    values = validation.row("profiles", row)
    names, units = tuple(values["metric_names"]), tuple(values["metric_units"])
    if len(names) != len(units):
        raise ValueError(f"{len(names)} metrics have {len(units)} units")
    return Columns(names, units)


def launch_row(launch: KernelLaunch) -> tuple[Any, ...]:
    """The values of LAUNCH_COLUMNS. Metrics are float64, least significant byte first, in the profile's order."""
    m = launch.metrics
    return (
        launch.place, launch.kernel, _KINDS[launch.kind], *(launch.grid or (None,) * 3), *(launch.block or (None,) * 3),
        launch.start_ns, launch.duration_ns, launch.count, launch.stream, launch.range, launch.problem,
        None if launch.config is None else canonical_json(dict(launch.config)), launch.role,
        np.asarray(m.numbers, "<f8").tobytes() if len(m.numbers) else None,
        canonical_json(dict(m.texts)) if m.texts else None, launch.device, launch.process, launch.bytes,
        launch.direction, launch.called_ns,
    )  # fmt: skip


def launch_from(
    found: Row, columns: Columns, findings: tuple[RuleFinding, ...] = (), lines: tuple[SourceLine, ...] = ()
) -> KernelLaunch:
    row = validation.row("profile_launches", found)
    values = np.frombuffer(row["metric_values"] or b"", "<f8")
    if len(values) not in (0, len(columns.names)):
        raise ValueError(f"{len(values)} values stand for {len(columns.names)} metrics")
    texts = row["metric_texts"] or {}
    return KernelLaunch(
        place=int(row["place"]), kernel=row["kernel"], kind=RowKind(row["kind"]),
        grid=_triple(row, "grid"), block=_triple(row, "block"), start_ns=row["start_ns"],
        duration_ns=row["duration_ns"], count=int(row["count"]), stream=row["stream"], range=row["range_place"],
        problem=row["problem"], config=row["config"], role=row["role"],
        metrics=Metrics(columns if len(values) else Columns(), values, texts), findings=findings, lines=lines,
        device=row["device"], process=row["process"], bytes=row["bytes"], direction=row["direction"],
        called_ns=row["called_ns"],
    )  # fmt: skip


def finding_row(finding: RuleFinding) -> dict[str, Any]:
    return {
        "rule": finding.rule, "section": finding.section, "kind": finding.kind, "title": finding.title,
        "text": finding.text, "gain": finding.gain, "gain_scope": finding.gain_scope,
        "focus": canonical_json([[m.name, m.unit, m.value] for m in finding.focus]),
    }  # fmt: skip


def finding_from(found: Row) -> RuleFinding:
    row = validation.row("profile_findings", found)
    focus = tuple(Metric(name, unit, value) for name, unit, value in row["focus"])
    return RuleFinding(
        row["rule"], row["section"], row["kind"], row["title"], row["text"], row["gain"], row["gain_scope"], focus
    )


def line_row(line: SourceLine) -> dict[str, Any]:
    return {
        "address": line.address, "sass": line.sass, "ptx": line.ptx, "file": line.file, "line": line.line,
        "executed": line.executed, "stalls": canonical_json(dict(line.stalls)),
    }  # fmt: skip


def line_from(found: Row) -> SourceLine:
    row = validation.row("profile_lines", found)
    return SourceLine(
        int(row["address"]), row["sass"], row["ptx"], row["file"], row["line"], row["executed"],
        row["stalls"],
    )  # fmt: skip


def range_row(place: int, item: Range) -> tuple[Any, ...]:
    """The values of RANGE_COLUMNS."""
    return place, item.name, item.parent, item.domain, item.thread, item.start_ns, item.end_ns, item.style


def wait_row(place: int, wait: HostWait) -> tuple[Any, ...]:
    """The values of WAIT_COLUMNS."""
    return place, wait.name, wait.process, wait.thread, wait.start_ns, wait.end_ns


def wait_from(found: Row) -> HostWait:
    row = validation.row("profile_waits", found)
    if row["end_ns"] < row["start_ns"]:
        raise ValueError("a wait cannot end before it begins")
    return HostWait(row["name"], row["start_ns"], row["end_ns"], row["process"], row["thread"])


def table_row(place: int, table: ReportTable) -> dict[str, Any]:
    """A row of profile_tables; the table's own rows are `table_rows`."""
    return {
        "place": place, "report": table.report, "title": table.title, "column_names": canonical_json(table.columns),
        "column_units": canonical_json(table.units),
    }  # fmt: skip


def table_rows(place: int, table: ReportTable) -> Iterator[tuple[int, int, str]]:
    """The values of TABLE_ROW_COLUMNS."""
    return ((place, at, canonical_json(cells)) for at, cells in enumerate(table.rows))


def table_from(found: Row, cells: Sequence[tuple[float | str | None, ...]]) -> ReportTable:
    row = validation.row("profile_tables", found)
    names, units = tuple(row["column_names"]), tuple(row["column_units"])
    if len(names) != len(units) or any(len(one) != len(names) for one in cells):
        raise ValueError("a row of a table has too few or too many cells")
    return ReportTable(row["report"], row["title"], names, units, tuple(cells))


def _triple(row: Row, name: str) -> tuple[int, int, int] | None:
    x, y, z = (row[f"{name}_{axis}"] for axis in "xyz")
    return None if None in (x, y, z) else (int(x), int(y), int(z))
