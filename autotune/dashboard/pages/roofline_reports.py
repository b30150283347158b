"""The reports' part of the page "Roofline": every profiled kernel under the roofs that its report counted."""

from collections.abc import Mapping

from autotune.dashboard import page_elements as ui
from autotune.dashboard.hardware_use import Roof, Roofline, roofline
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.page_data import PageData, ProfiledLaunch
from autotune.dashboard.pages.kernel import detailed
from tuning_db.profile_records import Profile

Entry = tuple[int, ProfiledLaunch, Roofline]


def charts(data: PageData) -> tuple[list[ui.Block], str]:
    """A chart and a table for each report that has counted bytes and operations, and a sentence; empty without any."""
    blocks: list[ui.Block] = []
    found: list[Entry] = []
    linked = frozenset(detailed(data.profiled))
    for profile in data.database.profiles:
        mine = [
            (place, entry, line)
            for place, entry in enumerate(data.profiled)
            if entry.profile is profile and (line := roofline(entry.launch)) is not None and line.bytes_s
        ]
        if mine:
            found += mine
            heading = ui.Words(f"Kernels of {profile.provenance.file}", heading=True)
            blocks += [heading, *_report(profile, mine, linked)]
    if not found:
        return [], ""
    left = sum(_bound_by_memory(line) is True for *_, line in found)
    known = sum(_bound_by_memory(line) is not None for *_, line in found)
    if not known:
        return blocks, f"Of {len(found)} profiled kernels no report has the peaks that roofs are made of."
    return blocks, f"{left} of {known} profiled kernels lie left of their ridge: DRAM is their roof."


def main_roof(line: Roofline) -> Roof:
    """The arithmetic that the kernel used most of, as a share of its peak, else by rate."""
    return max(line.roofs, key=lambda roof: (roof.rate / roof.peak if roof.peak else 0.0, roof.rate))


def _bound_by_memory(line: Roofline) -> bool | None:
    """None where the report has no peaks."""
    roof = main_roof(line)
    if not roof.peak or not line.bytes_peak:
        return None
    return roof.rate / line.bytes_s < roof.peak / line.bytes_peak


def _report(profile: Profile, found: list[Entry], linked: frozenset[int]) -> list[ui.Block]:
    short = short_names(entry.launch.kernel for _, entry, _ in found)
    places: dict[str, list[tuple[float, float, str]]] = {}
    for _, entry, line in found:
        roof = main_roof(line)
        x, y = roof.rate / line.bytes_s, roof.rate / 1e9
        places.setdefault(roof.name, []).append((x, y, f"{short[entry.launch.kernel]}: {y:,.1f} Gop/s, {roof.name}"))
    series = [ui.Series(name, "dots", tuple(points)) for name, points in places.items()]
    low = min(x for points in places.values() for x, *_ in points) / 4
    high = max(x for points in places.values() for x, *_ in points) * 4
    memory = max((line.bytes_peak or 0.0 for *_, line in found), default=0.0)
    peaks = {
        name: max((roof.peak or 0.0) for *_, line in found for roof in line.roofs if roof.name == name)
        for name in places
    }
    top = max(peaks.values(), default=0.0) or high * memory
    if memory:
        name = f"DRAM: {memory / 1e9:,.0f} GB/s"
        series.append(ui.Series(name, "line", ((low, low * memory / 1e9, name), (top / memory, top / 1e9, name))))
        for roof_name, peak in peaks.items():
            if peak:
                name = f"{roof_name} peak: {peak / 1e9:,.0f} Gop/s"
                ends = ((peak / memory, peak / 1e9, name), (max(high, 4 * top / memory), peak / 1e9, name))
                series.append(ui.Series(name, "line", ends, dashed=True))
    title = f"Roofline of {profile.provenance.file}, on {profile.provenance.chip or 'an unknown GPU'}"
    chart = ui.XY(
        title, ui.Axis("operations ÷ bytes read from and written to DRAM", "op/byte", log=True),
        ui.Axis("operations ÷ time", "Gop/s", log=True), tuple(series),
    )  # fmt: skip
    return [chart, _table(found, short, linked)]


def _table(found: list[Entry], short: Mapping[str, str], linked: frozenset[int]) -> ui.Table:
    columns = (
        ui.Column("kernel", "", False, True), ui.Column("arithmetic", "used most, of its peak"),
        ui.Column("intensity", "operations ÷ bytes", True), ui.Column("Gop/s", "operations ÷ time", True),
        ui.Column("of its peak", "Gop/s ÷ the report's peak", True), ui.Column("GB/s", "DRAM, both ways", True),
        ui.Column("of DRAM", "GB/s ÷ the report's peak", True),
    )  # fmt: skip
    rows = []
    for place, entry, line in found:
        roof = main_roof(line)
        href = f"#kernel-{place}" if place in linked else None
        rows.append(
            (
                ui.Cell(short[entry.launch.kernel], None, href, "", entry.launch.kernel),
                ui.Cell(roof.name), ui.number_cell(roof.rate / line.bytes_s, 3), ui.number_cell(roof.rate / 1e9, 1),
                ui.percent_cell(roof.rate / roof.peak if roof.peak else None, "", 1),
                ui.number_cell(line.bytes_s / 1e9, 1),
                ui.percent_cell(line.bytes_s / line.bytes_peak if line.bytes_peak else None, "", 1),
            )
        )  # fmt: skip
    return ui.Table("Every profiled kernel under its roofs", columns, tuple(rows))
