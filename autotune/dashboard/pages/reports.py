"""The page "Reports": what was imported, the kernels in it by time, what bounds each and what to try first."""

from collections.abc import Mapping, Sequence

from autotune.dashboard import counters, own_profiles
from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human, human_cell, step_of
from autotune.dashboard.kernel_groups import KernelGroup, kernel_groups, moved_ns
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.page_data import PageData, ProfiledLaunch
from autotune.dashboard.pages.kernel import detailed
from autotune.dashboard.pages.tables import has_tables
from autotune.profiling.diagnosis import Finding
from tuning_db.profile_records import Profile

MOST_BARS, MOST_ROWS, MOST_IN_ALL = 12, 1000, 200
UNKNOWN = "unknown (no counters)"


def page(data: PageData) -> ui.Page:
    profiles = data.database.profiles
    question = "What was imported, where does its GPU time go, and what would help most?"
    twice = own_profiles.counted_too(profiles)
    groups = kernel_groups(data, [n for n, one in enumerate(profiles) if one.provenance.sha256 not in twice])
    if not profiles:
        answer = "Nothing has been imported yet: autotune import FILE reads reports of Nsight Compute and Systems."
        return ui.Page("reports", "Reports", question, answer, ())
    per_report = [kernel_groups(data, [number]) for number in range(len(profiles))]
    short = short_names(group.name for mine in per_report for group in mine)
    blocks: list[ui.Block] = [_reports(data, per_report, short)]
    if not groups:
        answer = f"{_count(len(profiles), 'report')} without kernels: what is in them is in Tables or in Systems."
        return ui.Page("reports", "Reports", question, answer, tuple(blocks))
    chart = _bars(groups, short)
    blocks += [chart] if chart else []
    blocks.append(_kernels(groups, data, short, len(profiles) > 1, MOST_IN_ALL))
    details = tuple(
        _detail(place, profile, mine, data, short)
        for place, (profile, mine) in enumerate(zip(profiles, per_report, strict=True))
        if mine
    )  # fmt: skip
    answer = _answer(groups, data, short)
    return ui.Page("reports", "Reports", question, answer, tuple(blocks), "report", details)


def first_finding(entry: ProfiledLaunch | None) -> Finding | None:
    return entry.causes[0] if entry and entry.causes else None


def bound(entry: ProfiledLaunch | None) -> str:
    return (counters.bound(entry.launch) if entry else None) or UNKNOWN


def _total(groups: Sequence[KernelGroup]) -> float | None:
    times = [group.ns for group in groups if group.ns is not None]
    return sum(times) if times else None


def _answer(groups: Sequence[KernelGroup], data: PageData, short: Mapping[str, str]) -> str:
    total, count = _total(groups), sum(group.count for group in groups)
    text = f"{_count(len(data.database.profiles), 'report')} with {_count(count, 'launch', 'launches')} of "
    text += f"{_count(len(groups), 'kernel')}"
    if not total:
        return f"{text}; none of them was timed."
    top = groups[0]
    entry = top.told(data.profiled)
    text += f", {human(total, 'ns')} of kernel time. {(top.ns or 0.0) / total:.0%} of it is in {short[top.name]}"
    text += f", bound by {_lower(bound(entry))}." if entry else "."
    worth = [
        (group, finding)
        for group in groups
        if (finding := first_finding(group.told(data.profiled))) is not None and finding.gain
    ]
    if worth:
        group, finding = max(worth, key=lambda found: found[1].gain * (found[0].ns or 0.0))
        saved = finding.gain * (group.ns or 0.0)
        text += f" Most is to gain in {short[group.name]}: {_lower(finding.heading)}, up to {human(saved, 'ns')}"
        text += f" ({finding.gain:.0%} of its time)."
    return text


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _reports(data: PageData, per_report: Sequence[Sequence[KernelGroup]], short: Mapping[str, str]) -> ui.Table:
    columns = (
        ui.Column("report", "", False, True), ui.Column("from", "", False, True), ui.Column("GPU", "", False, True),
        ui.Column("recorded", "UTC", False, True),
        ui.Column("kernels", "different names", True), ui.Column("launches", "of them", True),
        ui.Column("kernel time", "sum over launches", True), ui.Column("most time in", "", False, True),
        ui.Column("share", "of the report's kernel time", True), ui.Column("bound by", "", False, True),
        ui.Column("copies and fills", "sum of their times", True), ui.Column("timeline"),
    )  # fmt: skip
    rows = []
    for place, (profile, groups) in enumerate(zip(data.database.profiles, per_report, strict=True)):
        origin, total = profile.provenance, _total(groups)
        top = groups[0] if groups else None
        rows.append(
            (
                ui.Cell(origin.file, None, _target(place, profile, groups)),
                ui.Cell(f"{origin.tool} {origin.tool_version}".strip()), ui.Cell(origin.chip or "unknown"),
                ui.Cell((origin.recorded_at or "unknown")[:16].replace("T", " ")),
                ui.number_cell(len(groups) or None, 0), ui.number_cell(sum(group.count for group in groups) or None, 0),
                human_cell(total, "ns"),
                ui.Cell(short[top.name] if top else "–", None, None, "", top.name if top else ""),
                ui.percent_cell(top.ns / total if top and top.ns is not None and total else None),
                ui.Cell(bound(top.told(data.profiled)) if top else "–"),
                human_cell(moved_ns(profile, data.database.traces[place]), "ns"),
                ui.link("over time", f"systems-{place}") if len(data.database.traces[place]) else ui.Cell("–"),
            )
        )  # fmt: skip
    return ui.Table("Imported reports", columns, tuple(rows))


def _target(place: int, profile: Profile, groups: Sequence[KernelGroup]) -> str | None:
    """Where a report's name leads: to its kernels, else to what else it has."""
    if groups:
        return f"#report-{place}"
    return f"#tables-{place}" if has_tables(profile) else None


def _bars(groups: Sequence[KernelGroup], short: Mapping[str, str]) -> ui.Bars | None:
    shown = [group for group in groups if group.ns][:MOST_BARS]
    full = tuple(group.name for group in shown)
    rest = [group.ns for group in groups[len(shown) :] if group.ns]
    unit, size = step_of(max([sum(rest), *(group.ns or 0.0 for group in shown)]), "ns")
    rows = tuple((short[group.name], ((group.ns or 0.0) / size,)) for group in shown)
    if rest:
        rows += ((_count(len(rest), "other"), (sum(rest) / size,)),)
        full += ("all others together",)
    axis = ui.Axis("all launches", unit)
    return ui.Bars("Kernels that took most time", axis, ("time",), rows, full=full) if rows else None


def _kernels(
    groups: Sequence[KernelGroup], data: PageData, short: Mapping[str, str], several: bool, most: int
) -> ui.Table:
    columns = [
        ui.Column("kernel", "", False, True), ui.Column("launches", "in all", True),
        ui.Column("time", "sum over launches", True), ui.Column("share", "of all kernel time", True),
        ui.Column("each", "time ÷ launches", True), ui.Column("bound by", "busiest unit, % of its peak", False, True),
        ui.Column("first finding", "", False, True), ui.Column("gain", "estimated, at best, % of its time", True),
        ui.Column("to gain", "gain × time", True), ui.Column("full name", "", False, True),
    ]  # fmt: skip
    if several:
        columns.insert(-1, ui.Column("reports", "that have it", True))
    total, linked = _total(groups), set(detailed(data.profiled))
    rows = []
    for group in groups[:most]:
        entry = group.told(data.profiled)
        finding = first_finding(entry)
        place = next((place for place in group.places if place in linked), None)
        timed = group.count - group.untimed
        row = [
            ui.Cell(short[group.name], None, None if place is None else f"#kernel-{place}", "", group.name),
            ui.number_cell(group.count, 0), human_cell(group.ns, "ns"),
            ui.percent_cell(group.ns / total if group.ns is not None and total else None, "", 1),
            human_cell(group.ns / timed if group.ns is not None and timed else None, "ns"), ui.Cell(bound(entry)),
            ui.Cell(finding.heading if finding else "–"),
            ui.number_cell(100 * finding.gain if finding and finding.gain else None, 0),
            human_cell(finding.gain * group.ns if finding and finding.gain and group.ns else None, "ns"),
            ui.Cell(group.name if group.name != short[group.name] else "the same"),
        ]  # fmt: skip
        if several:
            row.insert(-1, ui.number_cell(len(group.reports), 0))
        rows.append(tuple(row))
    caption = "Kernels by time"
    if len(groups) > most:
        rest = _total(groups[most:])
        took = f"took {human(rest, 'ns')}" if rest is not None else "were not timed"
        caption += f": the first {most:,} of {len(groups):,}, more are with each report; the others {took}"
    return ui.Table(caption, tuple(columns), tuple(rows))


def _detail(
    place: int, profile: Profile, groups: Sequence[KernelGroup], data: PageData, short: Mapping[str, str]
) -> ui.Detail:
    origin, total = profile.provenance, _total(groups)
    text = f"{origin.file}, {origin.tool} {origin.tool_version}".strip()
    text += f", on {origin.chip or 'an unknown GPU'}: {_count(sum(g.count for g in groups), 'launch', 'launches')} of "
    text += f"{_count(len(groups), 'kernel')}" + (f" in {human(total, 'ns')}." if total else ", not timed.")
    clocks = [f"{name} {human(hz, 'hz')}" for name, hz in sorted(origin.clocks.items())]
    text += f" Clocks while it was recorded: {', '.join(clocks)}." if clocks else ""
    text += f" {origin.note}" if origin.note else ""
    blocks: list[ui.Block] = [ui.Words(text)]
    chart = _bars(groups, short)
    blocks += [chart] if chart else []
    blocks.append(_kernels(groups, data, short, False, MOST_ROWS))
    return ui.Detail(f"report-{place}", f"{place + 1} · {origin.file}", tuple(blocks))
