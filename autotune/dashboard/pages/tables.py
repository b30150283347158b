"""The page "Tables": what imported files sum up: kernels, copies and fills, API calls, ranges, other tuners' trials."""

from collections.abc import Sequence

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import PageData
from tuning_db.profile_records import KernelLaunch, Profile, ReportTable, RowKind

MOST = 1000  # rows of one table; a trace of API calls has a hundred thousand
MEMORY = (RowKind.COPY, RowKind.FILL)


def page(data: PageData) -> ui.Page:
    shown = [(place, profile) for place, profile in enumerate(data.database.profiles) if has_tables(profile)]
    details = tuple(_detail(place, profile) for place, profile in shown)
    question = "What do imported files sum up: kernels, copies, calls, ranges, trials of other tuners?"
    return ui.Page("tables", "Tables", question, _answer([profile for _, profile in shown]), (), "file", details)


def has_tables(profile: Profile) -> bool:
    return bool(profile.tables) or any(
        launch.kind in (RowKind.SUMMARY, RowKind.TRIAL, *MEMORY) for launch in profile.launches
    )


def _answer(profiles: Sequence[Profile]) -> str:
    if not profiles:
        return "0 imported files have such tables: autotune import kernels.csv reads what nsys stats printed."
    kinds = list(dict.fromkeys(profile.provenance.format for profile in profiles))
    text = f"{len(profiles)} file{'s have' if len(profiles) > 1 else ' has'} such tables: {', '.join(kinds[:6])}"
    rows = sum(len(table.rows) for profile in profiles for table in profile.tables)
    rows += sum(len(profile.launches) for profile in profiles if not profile.tables)
    return text + (f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else "") + f"; {rows:,} rows in all."


def _detail(place: int, profile: Profile) -> ui.Detail:
    origin = profile.provenance
    blocks: list[ui.Block] = [
        ui.Words(f"{origin.file}: {origin.format}" + (f", {origin.chip}." if origin.chip else "."))
    ]
    of_kind = {kind: [x for x in profile.launches if x.kind is kind] for kind in RowKind}
    if of_kind[RowKind.SUMMARY]:
        blocks.append(_kernels(of_kind[RowKind.SUMMARY]))
    moved = [launch for kind in MEMORY for launch in of_kind[kind]]
    if moved:
        blocks.append(_memory(moved))
    if of_kind[RowKind.TRIAL]:
        blocks.append(_trials(of_kind[RowKind.TRIAL]))
    blocks += [_report(table) for table in profile.tables]
    return ui.Detail(f"tables-{place}", origin.file, tuple(blocks))


def _kernels(launches: Sequence[KernelLaunch]) -> ui.Table:
    total = sum(x.duration_ns or 0.0 for x in launches)
    columns = (
        ui.Column("kernel"), ui.Column("launches", "", True), ui.Column("time", "sum, µs", True),
        ui.Column("each", "mean, µs", True), ui.Column("share", "of the kernels' time", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(x.kernel), ui.number_cell(x.count, 0), ui.micros_cell(x.duration_ns),
            ui.micros_cell(None if x.duration_ns is None else x.duration_ns / max(x.count, 1)),
            ui.percent_cell(None if x.duration_ns is None or not total else x.duration_ns / total, digits=1),
        )
        for x in sorted(launches, key=lambda x: -(x.duration_ns or 0.0))
    )  # fmt: skip
    return _limited("Kernels", columns, rows)


def _memory(launches: Sequence[KernelLaunch]) -> ui.Table:
    """Copies and fills by name: one row for all of one direction."""
    columns = (
        ui.Column("operation"), ui.Column("count", "operations", True), ui.Column("time", "sum, µs", True),
        ui.Column("MB", "10⁶ bytes", True), ui.Column("GB/s", "bytes ÷ time", True),
    )  # fmt: skip
    rows = []
    for name in dict.fromkeys(x.kernel for x in launches):
        same = [x for x in launches if x.kernel == name]
        times = [x.duration_ns for x in same if x.duration_ns is not None]
        sizes = [x.bytes for x in same if x.bytes is not None]
        spent = sum(times) if times else None
        moved = sum(sizes) if len(sizes) == len(same) else None  # a part of the bytes would be none of the rate
        rate = moved / spent if moved is not None and spent and len(times) == len(same) else None
        rows.append(
            (
                ui.Cell(name), ui.number_cell(sum(x.count for x in same), 0), ui.micros_cell(spent),
                ui.number_cell(None if moved is None else moved / 1e6), ui.number_cell(rate),
            )
        )  # fmt: skip
    return _limited("Copies and fills", columns, tuple(rows))


def _trials(launches: Sequence[KernelLaunch]) -> ui.Table:
    columns = (
        ui.Column("configuration"), ui.Column("kernel"), ui.Column("status"), ui.Column("time", "µs", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(", ".join(f"{name}={value}" for name, value in (x.config or {}).items()) or "–"), ui.Cell(x.kernel),
            ui.Cell(x.metrics.texts.get("status", "–")), ui.micros_cell(x.duration_ns),
        )
        for x in sorted(launches, key=lambda x: (x.duration_ns is None, x.duration_ns or 0.0))
    )  # fmt: skip
    return _limited("Configurations that were tried", columns, rows)


def _report(table: ReportTable) -> ui.Table:
    numeric = [any(isinstance(row[at], float | int) for row in table.rows[:MOST]) for at in range(len(table.columns))]
    columns = tuple(
        ui.Column(name, "µs" if unit == "ns" else unit or ("as counted" if is_number else ""), is_number)
        for name, unit, is_number in zip(table.columns, table.units, numeric, strict=True)
    )
    rows = tuple(tuple(_cell(value, unit) for value, unit in zip(row, table.units, strict=True)) for row in table.rows)
    return _limited(f"{table.title} ({table.report})", columns, rows)


def _cell(value: float | str | None, unit: str) -> ui.Cell:
    if isinstance(value, str):
        return ui.Cell(value)
    return ui.micros_cell(value) if unit == "ns" else ui.number_cell(value)


def _limited(caption: str, columns: tuple[ui.Column, ...], rows: tuple[tuple[ui.Cell, ...], ...]) -> ui.Table:
    part = f", the first {MOST:,} of {len(rows):,} rows" if len(rows) > MOST else ""
    return ui.Table(caption + part, columns, rows[:MOST])
