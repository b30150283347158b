"""How far is each problem from what the machine can do: memory or arithmetic?"""

from autotune.dashboard.datasheets import vendor
from autotune.dashboard.page_data import DeviceFacts, Facts
from autotune.dashboard.page_elements import (
    XY,
    Axis,
    Block,
    Cell,
    Column,
    Page,
    Series,
    Table,
    Words,
    micros_cell,
    number_cell,
    percent_cell,
)  # fmt: skip
from autotune.dashboard.pages.overview import Row, standings

CEILINGS = {"int8_gop_s": "8-bit integer arithmetic, measured", "f32_gflop_s": "32-bit float arithmetic, measured"}


def page(facts: Facts) -> Page:
    rows = standings(facts.database)
    blocks: list[Block] = []
    sentences = []
    for device in facts.database.devices:
        mine = [row for row in rows if row.stored.device == device.device and row.gb_s is not None]
        if not mine or "read_gb_s" not in device.ceilings:
            continue
        blocks += [Words(device.device.chip, heading=True), _chart(device, mine, facts), _roofs(device)]
        blocks.append(_table(device, mine, facts))
        sentences.append(_sentence(device, mine, facts))
    answer = " ".join(sentences) or "No device has both a measured read bandwidth and a winner yet."
    return Page(
        "roofline",
        "Roofline",
        "Is each problem bound by memory or by arithmetic, and how close?",
        answer,
        tuple(blocks),
    )


def _intensity(row: Row, facts: Facts) -> tuple[float, float]:
    """(operations a byte, Gop/s): both from the operations and bytes that the problem cannot do without."""
    run = facts.database.run_by_id[row.stored.run_id].stored.run  # type: ignore[index]
    return run.work_ops / run.work_bytes, run.work_ops / row.stored.winner.measurement.median_ns


def _compute_roofs(device: DeviceFacts) -> list[tuple[str, float, bool]]:
    """(name, Gop/s, whether measured)."""
    found = [(text, device.ceilings[name], True) for name, text in CEILINGS.items() if name in device.ceilings]
    known = vendor(device.device.chip)
    return found + ([("32-bit float arithmetic, vendor's", known.f32_gflop_s, False)] if known else [])


def _sentence(device: DeviceFacts, rows: list[Row], facts: Facts) -> str:
    read, roofs = device.ceilings["read_gb_s"], _compute_roofs(device)
    lowest = min((value for _, value, _ in roofs), default=None)
    near = max(rows, key=lambda row: row.gb_s or 0.0)
    text = (
        f"On {device.device.chip}, measured to read {read:,.0f} GB/s, the closest to the memory roof is {near.name} at "
        f"{(near.gb_s or 0) / read:.0%}."
    )
    if lowest is None:
        return text
    memory = sum(_intensity(row, facts)[0] < lowest / read for row in rows)
    ridge = f"{lowest / read:,.1f} operations a byte"
    return f"{text} {memory} of {len(rows)} problems lie left of the ridge ({ridge}): memory is their roof."


def _chart(device: DeviceFacts, rows: list[Row], facts: Facts) -> XY:
    points = [(row, *_intensity(row, facts)) for row in rows]
    read, known = device.ceilings["read_gb_s"], vendor(device.device.chip)
    compute = _compute_roofs(device)
    low = min(x for _, x, _ in points) / 2
    top = min((value for _, value, _ in compute), default=max(x for _, x, _ in points) * 4 * read)
    series = [
        Series(
            "winners", "dots",
            tuple((x, y, f"{r.name}: {y:,.0f} Gop/s, {r.gb_s:,.0f} GB/s, {r.share or 0:.0%}") for r, x, y in points),
        ),
        Series(
            f"read bandwidth, measured: {read:,.0f} GB/s", "line",
            ((low, low * read, "measured roof"), (top / read, top, "measured roof")),
        ),
    ]  # fmt: skip
    if known:
        text = f"memory bandwidth, vendor's: {known.memory_gb_s:,.0f} GB/s"
        ends = ((low, low * known.memory_gb_s, "vendor's roof"), (top / known.memory_gb_s, top, "vendor's roof"))
        series.append(Series(text, "line", ends, dashed=True))
    for name, value, measured in compute:
        ends = ((value / read, value, name), (4 * top / read, value, name))
        series.append(Series(f"{name}: {value:,.0f} Gop/s", "line", ends, dashed=not measured))
    return XY(
        f"Roofline of {device.device.chip}",
        Axis("operations needed ÷ bytes needed", "op/byte", log=True),
        Axis("operations needed ÷ time", "Gop/s", log=True),
        tuple(series),
    )


def _roofs(device: DeviceFacts) -> Table:
    columns = (Column("roof"), Column("value", "", True), Column("unit"), Column("from"))
    measured = {
        "read_gb_s": ("read bandwidth", "GB/s"), "copy_gb_s": ("copy bandwidth, both directions", "GB/s"),
        "int8_gop_s": ("8-bit integer arithmetic", "Gop/s"), "f32_gflop_s": ("32-bit float arithmetic", "Gflop/s"),
    }  # fmt: skip
    rows = [
        (
            Cell(measured[name][0]),
            number_cell(value, 1),
            Cell(measured[name][1]),
            Cell("measured here (autotune devices)"),
        )
        for name, value in sorted(device.ceilings.items())
        if name in measured
    ]
    known = vendor(device.device.chip)
    if known:
        rows.append((Cell("memory bandwidth"), number_cell(known.memory_gb_s, 0), Cell("GB/s"), Cell(known.source)))
        rows.append(
            (Cell("32-bit float arithmetic"), number_cell(known.f32_gflop_s, 0), Cell("Gflop/s"), Cell(known.source))
        )
    return Table("Roofs: measured, and the vendor's", columns, tuple(rows))


def _table(device: DeviceFacts, rows: list[Row], facts: Facts) -> Table:
    columns = (
        Column("problem"), Column("intensity", "operations needed ÷ bytes needed", True),
        Column("Gop/s", "operations needed ÷ median time", True), Column("GB/s", "bytes needed ÷ median time", True),
        Column("of measured", "GB/s ÷ measured read bandwidth", True),
        Column("of vendor's", "GB/s ÷ data sheet's memory bandwidth", True),
        Column("least time", "bytes needed ÷ measured read bandwidth, µs", True), Column("time", "median, µs", True),
    )  # fmt: skip
    known, read = vendor(device.device.chip), device.ceilings["read_gb_s"]
    table = []
    for row in rows:
        intensity, rate = _intensity(row, facts)
        gb_s, median = row.gb_s or 0.0, row.stored.winner.measurement.median_ns
        table.append(
            (
                Cell(row.name), number_cell(intensity, 2), number_cell(rate, 0), number_cell(gb_s, 0),
                percent_cell(row.share), percent_cell(gb_s / known.memory_gb_s if known else None),
                micros_cell(median * gb_s / read), micros_cell(median),
            )
        )  # fmt: skip
    return Table("Every winner under its roof", columns, tuple(table))
