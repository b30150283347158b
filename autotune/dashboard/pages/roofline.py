"""The page "Roofline": each winner's rate under the device's memory and arithmetic roofs."""

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import DeviceData, PageData
from autotune.dashboard.pages import roofline_reports
from autotune.dashboard.pages.overview import Row, standings
from autotune.screening.datasheets import datasheet

CEILINGS = {"int8_gop_s": "8-bit integer arithmetic, measured", "f32_gflop_s": "32-bit float arithmetic, measured"}


def page(data: PageData) -> ui.Page:
    rows = standings(data.database)
    blocks: list[ui.Block] = []
    sentences = []
    for device in data.database.devices:
        mine = [row for row in rows if row.stored.device == device.device and row.gb_s is not None]
        if not mine or "read_gb_s" not in device.ceilings:
            continue
        blocks += [ui.Words(device.device.label, heading=True), _chart(device, mine, data), _roofs(device)]
        blocks.append(_table(device, mine, data))
        sentences.append(_sentence(device, mine, data))
    reports, sentence = roofline_reports.charts(data)
    blocks += reports
    sentences += [sentence] if sentence else []
    answer = " ".join(sentences) or "No device has both a measured read bandwidth and a winner yet."
    return ui.Page(
        "roofline",
        "Roofline",
        "Is each problem bound by memory or by arithmetic, and how close?",
        answer,
        tuple(blocks),
    )


def _intensity(row: Row, data: PageData) -> tuple[float, float]:
    """(operations a byte, Gop/s): both from the operations and bytes that the problem cannot do without."""
    run = data.database.run_by_id[row.stored.run_id].stored.run  # type: ignore[index]
    return run.work_ops / run.work_bytes, run.work_ops / row.stored.winner.measurement.median_ns


def _compute_roofs(device: DeviceData) -> list[tuple[str, float, bool]]:
    """(name, Gop/s, whether measured)."""
    found = [(text, device.ceilings[name], True) for name, text in CEILINGS.items() if name in device.ceilings]
    known = datasheet(device.device.chip)
    return found + ([("32-bit float arithmetic, vendor's", known.f32_gflop_s, False)] if known else [])


def _sentence(device: DeviceData, rows: list[Row], data: PageData) -> str:
    read, roofs = device.ceilings["read_gb_s"], _compute_roofs(device)
    lowest = min((value for _, value, _ in roofs), default=None)
    near = max(rows, key=lambda row: row.gb_s or 0.0)
    text = (
        f"On {device.device.label}, measured to read {read:,.0f} GB/s, the closest to the memory roof is {near.name} "
        f"at {(near.gb_s or 0) / read:.0%}."
    )
    if lowest is None:
        return text
    memory = sum(_intensity(row, data)[0] < lowest / read for row in rows)
    ridge = f"{lowest / read:,.1f} operations a byte"
    return f"{text} {memory} of {len(rows)} problems lie left of the ridge ({ridge}): memory is their roof."


def _chart(device: DeviceData, rows: list[Row], data: PageData) -> ui.XY:
    points = [(row, *_intensity(row, data)) for row in rows]
    read, known = device.ceilings["read_gb_s"], datasheet(device.device.chip)
    compute = _compute_roofs(device)
    low = min(x for _, x, _ in points) / 2
    top = min((value for _, value, _ in compute), default=max(x for _, x, _ in points) * 4 * read)
    series = [
        ui.Series(
            "winners", "dots",
            tuple((x, y, f"{r.name}: {y:,.0f} Gop/s, {r.gb_s:,.0f} GB/s, {r.share or 0:.0%}") for r, x, y in points),
        ),
        ui.Series(
            f"read bandwidth, measured: {read:,.0f} GB/s", "line",
            ((low, low * read, "measured roof"), (top / read, top, "measured roof")),
        ),
    ]  # fmt: skip
    if known:
        text = f"memory bandwidth, vendor's: {known.memory_gb_s:,.0f} GB/s"
        ends = ((low, low * known.memory_gb_s, "vendor's roof"), (top / known.memory_gb_s, top, "vendor's roof"))
        series.append(ui.Series(text, "line", ends, dashed=True))
    for name, value, measured in compute:
        ends = ((value / read, value, name), (4 * top / read, value, name))
        series.append(ui.Series(f"{name}: {value:,.0f} Gop/s", "line", ends, dashed=not measured))
    return ui.XY(
        f"Roofline of {device.device.label}",
        ui.Axis("operations needed ÷ bytes needed", "op/byte", log=True),
        ui.Axis("operations needed ÷ time", "Gop/s", log=True),
        tuple(series),
    )


def _roofs(device: DeviceData) -> ui.Table:
    columns = (ui.Column("roof"), ui.Column("value", "", True), ui.Column("unit"), ui.Column("from"))
    measured = {
        "read_gb_s": ("read bandwidth", "GB/s"), "copy_gb_s": ("copy bandwidth, both directions", "GB/s"),
        "int8_gop_s": ("8-bit integer arithmetic", "Gop/s"), "f32_gflop_s": ("32-bit float arithmetic", "Gflop/s"),
    }  # fmt: skip
    rows = [
        (
            ui.Cell(measured[name][0]),
            ui.number_cell(value, 1),
            ui.Cell(measured[name][1]),
            ui.Cell("measured here (autotune devices)"),
        )
        for name, value in sorted(device.ceilings.items())
        if name in measured
    ]
    known = datasheet(device.device.chip)
    if known:
        rows.append(
            (ui.Cell("memory bandwidth"), ui.number_cell(known.memory_gb_s, 0), ui.Cell("GB/s"), ui.Cell(known.source))
        )
        rows.append(
            (
                ui.Cell("32-bit float arithmetic"),
                ui.number_cell(known.f32_gflop_s, 0),
                ui.Cell("Gflop/s"),
                ui.Cell(known.source),
            )
        )
    return ui.Table("Roofs: measured, and the vendor's", columns, tuple(rows))


def _table(device: DeviceData, rows: list[Row], data: PageData) -> ui.Table:
    columns = (
        ui.Column("problem"), ui.Column("intensity", "operations needed ÷ bytes needed", True),
        ui.Column("Gop/s", "operations needed ÷ median time", True),
        ui.Column("GB/s", "bytes needed ÷ median time", True),
        ui.Column("of measured", "GB/s ÷ measured read bandwidth", True),
        ui.Column("of vendor's", "GB/s ÷ data sheet's memory bandwidth", True),
        ui.Column("least time", "bytes needed ÷ measured read bandwidth, µs", True),
        ui.Column("time", "median, µs", True),
    )  # fmt: skip
    known, read = datasheet(device.device.chip), device.ceilings["read_gb_s"]
    table = []
    for row in rows:
        intensity, rate = _intensity(row, data)
        gb_s, median = row.gb_s or 0.0, row.stored.winner.measurement.median_ns
        table.append(
            (
                ui.Cell(row.name), ui.number_cell(intensity, 2), ui.number_cell(rate, 0), ui.number_cell(gb_s, 0),
                ui.percent_cell(row.share), ui.percent_cell(gb_s / known.memory_gb_s if known else None),
                ui.micros_cell(median * gb_s / read), ui.micros_cell(median),
            )
        )  # fmt: skip
    return ui.Table("Every winner under its roof", columns, tuple(table))
