"""Nsight Compute's CSV: the pages raw and details, the table of `ncu --metrics`, and that of `--print-summary`.

`ncu --import REPORT --csv --page raw` has a row a launch under a row of units. `--page details`, and `ncu --csv` with
`--metrics` or `--set` as it runs, have a row for each metric of each section, and for each rule. `--print-summary` has
one for each metric of all launches of a kernel. Whichever page, a metric has the name that the report gives it.

A CSV says nowhere where it should end. One cut within a row, or whose last launch lacks what the others have, is read
as partial; one cut between two launches cannot be told from a whole one, and the note says so.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.importers import csv_tables, files, ncu_labels, units
from autotune.importers.csv_tables import Table
from autotune.importers.importer import Importer
from autotune.importers.ncu_rep import clocks
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, ReportTable, RowKind, RuleFinding

METRIC, UNIT, VALUE, AVERAGE, COUNT = "Metric Name", "Metric Unit", "Metric Value", "Average", "Invocations"
SECTION, KERNEL, RULE = "Section Name", "Kernel Name", "Rule Name"
# Columns that describe a launch; a metric's name has a double underscore, or is one word in lower case.
DESCRIBING = frozenset(
    {
        "ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Kernel Time", "Context", "Stream",
        "Block Size", "Grid Size", "Device", "CC",
        "Id:Domain:Start/Stop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg",
        "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg",
    }
)  # fmt: skip
DURATION, CHIP = "gpu__time_duration.sum", "device__attribute_display_name"
NO_END = f"a CSV has {files.NO_END}: launches missing after the last one would not be noticed"
AGAIN = "export it again"
_KINDS = {"OPT": "optimization", "WRN": "warning", "ERR": "error", "INF": "ok"}
_INSTANCES = re.compile(r"(?:\(!\) *)?(\S+) *[({\[].*[)}\]]", re.DOTALL)  # "4.19 (2.09; 2.10)": the sum and its parts
_NOTHING = ("", "n/a", "nan", "no data", "(!) n/a", "(!) nan")

Cells = Mapping[str, str]
IDENTITY = ("Host Name", "Process ID", "ID")  # several processes may print into one file, and each begins at 0
Identity = tuple[str, ...]


@dataclass(frozen=True)
class _Launch:
    """A launch, or all of a kernel in a summary: what describes it, its metrics by name (unit and value), words,
    rules."""

    about: Cells
    numbers: Mapping[str, tuple[str, float]]
    texts: Mapping[str, str]
    findings: tuple[RuleFinding, ...] = ()


def is_header(row: Sequence[str]) -> bool:
    return is_raw(row) or is_long(row) or is_summary(row)


def is_raw(row: Sequence[str]) -> bool:
    """Of the raw page: a column a metric."""
    return "ID" in row and KERNEL in row and METRIC not in row


def is_long(row: Sequence[str]) -> bool:
    """Of the details page and of `--metrics`: a row a metric."""
    return "ID" in row and METRIC in row and VALUE in row


def is_summary(row: Sequence[str]) -> bool:
    return METRIC in row and AVERAGE in row and COUNT in row


def recognizes(head: bytes) -> bool:
    return csv_tables.head_has(head, is_header)


def read(path: Path, decimal: Decimal | None = None) -> Profile:
    """Raises UserError for a file without launches or one that is damaged."""
    tables = csv_tables.read(path, is_header, decimal, _completed)
    kinds, found, reports, missing = list[str](), list[_Launch](), list[ReportTable](), 0
    for table in tables:  # of several runs, or several pages
        kind, reader = next((kind, reader) for known, kind, reader in _READERS if known(table.header))
        launches, begun = reader(path, table)
        found += launches
        missing += begun
        kinds.append("metrics of the command line" if _of_command_line(table) else kind)
        if is_summary(table.header):
            reports.append(_report(table))
    if not found:
        raise files.unusable(path, "ends in the middle of its only launch" if missing else "has no launches", AGAIN)
    stored = _stored(found)
    note = "a launch that ends in its middle was left out" if missing else NO_END
    first = stored[0].metrics
    chips = dict.fromkeys(chip for launch in found if (chip := launch.about.get(CHIP)))
    about = files.provenance(
        path, "Nsight Compute", f"ncu CSV, {' and '.join(dict.fromkeys(kinds))}", len(stored),
        len(stored) + missing if missing else None, note, chip=", ".join(chips),
        clocks=clocks(first),
    )  # fmt: skip
    return Profile(about, stored, tables=tuple(reports))


def _of_command_line(table: Table) -> bool:
    """Whether it is the table of `ncu --metrics`."""
    if not is_long(table.header) or SECTION not in table.header:
        return False
    return {row[table.header.index(SECTION)] for row in table.rows} == {ncu_labels.COMMAND_LINE}


def _completed(header: list[str], row: list[str]) -> list[str]:
    """A metric's row ends with one empty cell where a rule's goes on."""
    short = header.index(RULE) + 1 if RULE in header else len(header)
    return row + [""] * (len(header) - short) if len(row) == short and not row[-1] else row


def _raw(path: Path, table: Table) -> tuple[list[_Launch], int]:
    """The launches of a raw page, and how many more were begun."""
    header, body = table.header, table.rows
    if not body or body[0][0] != "":
        raise files.unusable(path, "has no row of units below its header", "export it with ncu --csv --page raw")
    unit_row, body = body[0], body[1:]
    ids = [header.index(name) for name in IDENTITY if name in header]
    _check_order(path, [tuple(row[at] for at in ids) for row in body])
    places = [place for place, name in enumerate(header) if name not in DESCRIBING and not ncu_labels.left_out(name)]
    bases = {place: units.base(unit_row[place]) for place in places}
    launches = []
    for row in body:
        numbers, texts = {}, {}
        for place in places:
            cell = row[place]
            value = _number(cell)
            if value is not None:
                unit, factor = bases[place]
                numbers[header[place]] = (unit, value * factor)
            elif cell not in _NOTHING:
                texts[header[place]] = cell
        launches.append(
            _Launch({n: row[i] for i, n in enumerate(header) if n in DESCRIBING or n == CHIP}, numbers, texts)
        )
    return launches, int(table.cut)


def _long(path: Path, table: Table) -> tuple[list[_Launch], int]:
    """The launches of a table with a row for each metric, and how many more there are that lack some."""
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    launches: dict[Identity, list[Cells]] = {}
    for row in rows:
        launches.setdefault(_identity(row), []).append(row)
    of_process = itertools.groupby(sorted(map(_identity, rows), key=lambda one: one[:-1]))
    _check_order(path, [which for which, _ in of_process])
    if not launches:
        return [], 0
    # Rows of one launch follow each other in what its process printed, so only those of its last one can be missing.
    names = {
        which: {(row.get(SECTION), row[METRIC]) for row in group if row[METRIC]} for which, group in launches.items()
    }
    last = {which[:-1]: which for which in launches}.values()
    incomplete = {which for which in last if next(iter(names.values())) - names[which]}
    incomplete |= {_identity(rows[-1])} if table.cut else set()
    return [_measured(group, VALUE) for which, group in launches.items() if which not in incomplete], len(incomplete)


def _summary(path: Path, table: Table) -> tuple[list[_Launch], int]:
    """Kernels with the averages of their launches' metrics, and how many more there are that lack some."""
    groups: dict[tuple[str, ...], list[Cells]] = {}
    for row in table.rows:
        named = dict(zip(table.header, row, strict=True))
        which = tuple(value for name, value in named.items() if name in DESCRIBING or name == COUNT)
        groups.setdefault(which, []).append(named)
    whole = list(groups.values())[: -1 if table.cut else None]
    return [_measured(group, AVERAGE) for group in whole], int(table.cut)


_READERS = (
    (is_summary, "summary of launches", _summary), (is_long, "page details", _long), (is_raw, "page raw", _raw),
)  # fmt: skip


def _measured(rows: Sequence[Cells], column: str) -> _Launch:
    numbers: dict[str, tuple[str, float]] = {}
    texts: dict[str, str] = {}
    findings = []
    for row in rows:
        if row[METRIC]:
            unit, factor = units.base(row.get(UNIT, ""))
            name = ncu_labels.metric(row.get(SECTION, ""), row[METRIC], unit)
            value = _number(row[column])
            if ncu_labels.left_out(name):
                continue
            if value is not None:
                numbers.setdefault(name, (unit, value * factor))
            elif row[column] not in _NOTHING:
                texts.setdefault(name, row[column])
        if row.get(RULE):
            findings.append(_finding(row))
    return _Launch(rows[0], numbers, texts, tuple(findings))


def _finding(row: Cells) -> RuleFinding:
    return RuleFinding(
        rule=row[RULE], section=row.get(SECTION, ""), kind=_KINDS.get(row.get("Rule Type", ""), "ok"), title=row[RULE],
        text=row.get("Rule Description", ""), gain=units.number(row.get("Estimated Speedup", "")),
        gain_scope=row.get("Estimated Speedup Type") or None,
    )  # fmt: skip


def _report(table: Table) -> ReportTable:
    """A summary as it is printed, with the extremes beside the averages."""
    shown = (KERNEL, "Grid Size", "Block Size", COUNT, SECTION, METRIC, UNIT, "Minimum", "Maximum", AVERAGE)
    columns = tuple(name for name in shown if name in table.header)
    rows = []
    for row in table.rows:
        named = dict(zip(table.header, row, strict=True))
        unit, factor = units.base(named.get(UNIT, ""))
        cells: list[float | str | None] = []
        for name in columns:
            value = _number(named[name]) if name in ("Minimum", "Maximum", AVERAGE, COUNT) else None
            cells.append(unit if name == UNIT else named[name] if value is None else value)
            if value is not None and name != COUNT:
                cells[-1] = value * factor
        rows.append(tuple(cells))
    title = "Summary of launches: the metrics of each kernel over all its launches"
    return ReportTable("ncu --print-summary", title, columns, ("",) * len(columns), tuple(rows))


def _stored(found: Sequence[_Launch]) -> tuple[KernelLaunch, ...]:
    """The launches as records, with one list of metrics for them all."""
    unit_of: dict[str, str] = {}
    for one in found:
        for name, (unit, _) in one.numbers.items():
            unit_of.setdefault(name, unit)
    columns = Columns(tuple(unit_of), tuple(unit_of.values()))
    return tuple(_launch(place, one, columns) for place, one in enumerate(found))


def _launch(place: int, one: _Launch, columns: Columns) -> KernelLaunch:
    values = np.full(len(columns.names), np.nan)
    for name, (_, value) in one.numbers.items():
        values[columns.places[name]] = value
    metrics, about = Metrics(columns, values, one.texts), one.about
    unit, duration = one.numbers.get(DURATION, ("", None))
    duration = duration if unit == "ns" else None  # what is in no known unit of time is no time
    count = _whole(about.get(COUNT, "")) or 1
    return KernelLaunch(
        place=place, kernel=about.get(KERNEL) or "kernel of no name", grid=triple(about.get("Grid Size", "")),
        kind=RowKind.SUMMARY if COUNT in about else RowKind.KERNEL, block=triple(about.get("Block Size", "")),
        duration_ns=None if duration is None else duration * count, count=count,
        stream=_whole(about.get("Stream", "")), device=_whole(about.get("Device", "")), metrics=metrics,
        findings=one.findings,
    )  # fmt: skip


def _identity(row: Cells) -> Identity:
    return tuple(row[name] for name in IDENTITY if name in row)


def _check_order(path: Path, launches: Iterable[Identity]) -> None:
    """Each process numbers its launches in order. Raises UserError if these are not."""
    last: dict[Identity, int] = {}
    for *process, number in launches:
        plain = number.replace(",", "")
        if not plain.isdigit():
            raise files.unusable(path, "is damaged: a launch has no number", AGAIN)
        if int(plain) <= last.get(tuple(process), -1):
            raise files.unusable(path, "is damaged: its launches are not in order", AGAIN)
        last[tuple(process)] = int(plain)


def _number(cell: str) -> float | None:
    found = _INSTANCES.fullmatch(cell) if cell[-1:] in (")", "}", "]") else None
    return units.number(found[1] if found else cell)


def triple(text: str) -> tuple[int, int, int] | None:
    """(x, y, z) from "(8, 1, 1)"; None for what is none."""
    parts = text.strip("() ").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        return None
    x, y, z = (int(part) for part in parts)
    return x, y, z


def _whole(text: str) -> int | None:
    plain = text.replace(",", "").strip()  # thousands
    return int(plain) if plain.isdigit() else None


IMPORTER = Importer("Nsight Compute CSV", recognizes, read, localized=True)
