"""Nsight Compute's CSV: `ncu --import REPORT --csv --page raw`, a row a launch under a row of units, and `--page
details`, a row for each metric of each section and each rule.

A CSV says nowhere where it should end. One cut within a row, or whose last launch lacks what the others have, is read
as partial; one cut between two launches cannot be told from a whole one, and the note says so.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autotune.importers import files, units
from autotune.importers.importer import Importer
from autotune.importers.ncu_rep import clocks
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance, RuleFinding

LAUNCH = ("ID", "Kernel Name")
DETAILS = (*LAUNCH, "Section Name", "Metric Name", "Metric Unit", "Metric Value")
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
RULE = "Rule Name"
NO_END = f"a CSV has {files.NO_END}: launches missing after the last one would not be noticed"
TOOL, AGAIN = "Nsight Compute", "export it again"


def is_raw(head: bytes) -> bool:
    return files.head_has(head, LAUNCH) and not is_details(head) and b"__" in head


def is_details(head: bytes) -> bool:
    return files.head_has(head, DETAILS)


def read_raw(path: Path, decimal: Decimal | None = None) -> Profile:
    """Raises UserError for a file without launches or one that is damaged."""
    table = files.csv_rows(path, LAUNCH, decimal)
    header, unit_row = next(table, []), next(table, [])
    if len(unit_row) != len(header) or unit_row[:1] != [""]:
        raise files.unusable(path, "has no row of units below its header", "export it with ncu --csv --page raw")
    whole, cut = _whole_rows(path, header, list(table))
    _check_order(path, [row[header.index("ID")] for row in whole])
    places = [i for i, name in enumerate(header) if name not in DESCRIBING]
    scaled = [units.base(unit_row[i]) for i in places]
    columns = Columns(tuple(header[i] for i in places), tuple(unit for unit, _ in scaled))
    launches = tuple(
        _launch(place, dict(zip(header, row, strict=True)), _metrics(row, places, [f for _, f in scaled], columns))
        for place, row in enumerate(whole)
    )
    return Profile(_provenance(path, "ncu CSV, page raw", launches, cut), launches)


def read_details(path: Path, decimal: Decimal | None = None) -> Profile:
    """Metrics have the names that the page shows, with their section's: "Occupancy: Achieved Occupancy"."""
    table = files.csv_rows(path, DETAILS, decimal)
    header = next(table, [])
    # A metric's row ends with one empty cell where a rule's goes on.
    short = header.index(RULE) + 1 if RULE in header else len(header)
    padded = [row + [""] * (len(header) - short) if len(row) == short and not row[-1] else row for row in table]
    whole, cut = _whole_rows(path, header, padded)
    numbers = [row[header.index("ID")] for row in whole]
    _check_order(path, [number for number, _ in itertools.groupby(numbers)])
    groups: dict[str, list[dict[str, str]]] = {}
    for row in whole:
        named = dict(zip(header, row, strict=True))
        groups.setdefault(named["ID"], []).append(named)
    units_of: dict[str, str] = {}
    for rows in groups.values():
        for name, unit, _ in _numbers(rows):
            units_of.setdefault(name, unit)
    columns = Columns(tuple(units_of), tuple(units_of.values()))
    launches = tuple(_detailed(place, rows, columns) for place, rows in enumerate(groups.values()))
    # Rows of one launch follow each other, so only the last one's can be missing.
    metrics = [{_name(row) for row in rows if row["Metric Name"]} for rows in groups.values()]
    lacking = bool(metrics[0] - metrics[-1])
    kept = launches[:-1] if cut or lacking else launches
    if not kept:
        raise files.unusable(path, "ends in the middle of its only launch", AGAIN)
    return Profile(_provenance(path, "ncu CSV, page details", kept, cut or lacking), kept)


def _whole_rows(path: Path, header: list[str], body: list[list[str]]) -> tuple[list[list[str]], bool]:
    """The rows that are whole, and whether the last one was not. Raises UserError if another one is not."""
    cut = bool(body) and len(body[-1]) != len(header)
    whole = body[:-1] if cut else body
    if not whole:
        raise files.unusable(path, "has no launches", AGAIN)
    if any(len(row) != len(header) for row in whole):
        raise files.unusable(path, "is damaged: rows differ in length", AGAIN)
    return whole, cut


def _check_order(path: Path, numbers: list[str]) -> None:
    """Launches are numbered in order. Raises UserError if these are not."""
    if not all(number.isdigit() for number in numbers):
        raise files.unusable(path, "is damaged: a launch has no number", AGAIN)
    if any(int(one) >= int(other) for one, other in itertools.pairwise(numbers)):
        raise files.unusable(path, "is damaged: its launches are not in order", AGAIN)


def _metrics(row: list[str], places: list[int], factors: list[float], columns: Columns) -> Metrics:
    values, texts = np.full(len(places), np.nan), {}
    for at, (place, factor) in enumerate(zip(places, factors, strict=True)):
        cell = row[place]
        if not cell:
            continue
        value = units.number(cell)
        if value is None:
            texts[columns.names[at]] = cell
        else:
            values[at] = value * factor
    return Metrics(columns, values, texts)


def _launch(place: int, row: dict[str, str], metrics: Metrics, findings: tuple[RuleFinding, ...] = ()) -> KernelLaunch:
    duration = metrics.number(DURATION)
    if duration is None:
        duration = metrics.number("GPU Speed Of Light Throughput: Duration")
    return KernelLaunch(
        place=place, kernel=row["Kernel Name"], grid=triple(row.get("Grid Size", "")),
        block=triple(row.get("Block Size", "")), duration_ns=duration, stream=_whole(row.get("Stream", "")),
        metrics=metrics, findings=findings,
    )  # fmt: skip


def _detailed(place: int, rows: list[dict[str, str]], columns: Columns) -> KernelLaunch:
    values, texts = np.full(len(columns.names), np.nan), {}
    for name, _, value in _numbers(rows):
        values[columns.places[name]] = value
    for row in rows:
        if row["Metric Name"] and units.number(row["Metric Value"]) is None:
            texts[_name(row)] = row["Metric Value"]
    findings = tuple(
        RuleFinding(
            rule=row[RULE], section=row["Section Name"], kind=_KINDS.get(row["Rule Type"], "ok"),
            title=row[RULE], text=row["Rule Description"],
            gain=units.number(row.get("Estimated Speedup", "")), gain_scope=row.get("Estimated Speedup Type") or None,
        )
        for row in rows
        if row.get(RULE)
    )  # fmt: skip
    return _launch(place, rows[0], Metrics(columns, values, texts), findings)


_KINDS = {"OPT": "optimization", "WRN": "warning", "ERR": "error", "INF": "ok"}


def _numbers(rows: list[dict[str, str]]) -> Iterator[tuple[str, str, float]]:
    for row in rows:
        value = units.number(row["Metric Value"]) if row["Metric Name"] else None
        if value is not None:
            unit, factor = units.base(row["Metric Unit"])
            yield _name(row), unit, value * factor


def _name(row: dict[str, str]) -> str:
    return f"{row['Section Name']}: {row['Metric Name']}"


def _provenance(path: Path, kind: str, launches: tuple[KernelLaunch, ...], cut: bool) -> Provenance:
    note = "the file ends in the middle of a launch, which was left out" if cut else NO_END
    first = launches[0].metrics
    return files.provenance(
        path, TOOL, kind, len(launches), len(launches) + 1 if cut else None, note, chip=first.texts.get(CHIP, ""),
        clocks=clocks(first),
    )  # fmt: skip


def triple(text: str) -> tuple[int, int, int] | None:
    """(x, y, z) from "(8, 1, 1)"; None for what is none."""
    parts = text.strip("() ").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        return None
    x, y, z = (int(part) for part in parts)
    return x, y, z


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


DETAILS_IMPORTER = Importer("Nsight Compute CSV, page details", is_details, read_details, localized=True)
RAW_IMPORTER = Importer("Nsight Compute CSV, page raw", is_raw, read_raw, localized=True)
