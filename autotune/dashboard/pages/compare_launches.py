"""Two launches side by side on the page "Compare": configuration, findings, counters, source lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from autotune.dashboard import counters
from autotune.dashboard import page_elements as ui
from autotune.dashboard.hardware_use import L1_HITS, L2_HITS
from autotune.dashboard.human_units import human, human_cell
from autotune.dashboard.page_data import ProfiledLaunch
from autotune.profiling import launch_metrics
from tuning_db.profile_records import KernelLaunch

MOST_LINES = 12
COUNTERS: dict[str, counters.Names] = {
    **counters.LAUNCH, **{f"occupancy, {name}": names for name, names in counters.OCCUPANCY.items()},
    **counters.SPEED_OF_LIGHT, **{f"blocks allowed by {name}": names for name, names in counters.LIMITS.items()},
    "L1/TEX hits": L1_HITS, "L2 hits": L2_HITS, "read from DRAM": counters.READ,
    "written to DRAM": (launch_metrics.DRAM_WRITE,), "L2 to L1": (launch_metrics.FETCHED,),
    "L1 to L2": (launch_metrics.SENT,), "bank conflicts": (launch_metrics.CONFLICTS,),
    "instructions": ("inst_executed", "smsp__inst_executed.sum", "Executed Instructions"),
    "shared memory of a block": ("launch__shared_mem_per_block",),
}  # fmt: skip


# Counters that no words name: said elsewhere, no property of a kernel, or only the reason of another.
QUIET = ("SM clock", "DRAM clock", "duration", *(f"blocks allowed by {name}" for name in counters.LIMITS))
LEAST, MOST_NAMED = 0.1, 4  # relative change of a counter that is named in words; how many are


def told(first: ProfiledLaunch, second: ProfiledLaunch, configured: bool = True) -> str:
    """What changed besides the time, in sentences that begin with a space; "" where nothing did. configured: also
    their configurations."""
    one, two = first.launch, second.launch
    changed = settings(one.config or {}, two.config or {}) if configured else ""
    text = f" Configuration: {changed}." if changed else ""
    sizes = [
        f"{name} {size(before)} → {size(after)}"
        for name, before, after in (("grid", one.grid, two.grid), ("block", one.block, two.block))
        if before and after and before != after
    ]
    text += f" Launched with {', '.join(sizes)}." if sizes else ""
    text += f" Changed most: {most}." if (most := ", ".join(most_changed(one, two))) else ""
    before, after = ({finding.heading for finding in entry.causes} for entry in (first, second))
    gone, new = sorted(before - after), sorted(after - before)
    text += f" Findings that went away: {'; '.join(gone)}." if gone else ""
    return text + (f" New findings: {'; '.join(new)}." if new else "")


def most_changed(first: KernelLaunch, second: KernelLaunch) -> list[str]:
    """The counters with the largest ratios between the two, "instructions 2.1 M inst → 1 M inst"."""
    found = []
    for label, names in COUNTERS.items():
        one, two = counters.one(first, names), counters.one(second, names)
        if label in QUIET or one is None or two is None or one.value <= 0 or two.value <= 0:
            continue
        if (change := abs(log(two.value / one.value))) > LEAST:
            found.append((-change, f"{label} {human(one.value, one.unit)} → {human(two.value, two.unit)}"))
    return [text for _, text in sorted(found)[:MOST_NAMED]]


def size(dimensions: Sequence[int] | None) -> str:
    return "×".join(map(str, dimensions)) if dimensions else "–"


def settings(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Parameters of our configurations that differ, "warps 4 → 16"."""
    changed = sorted(name for name in {**one, **two} if one.get(name) != two.get(name))
    return ", ".join(f"{name} {one.get(name, '–')} → {two.get(name, '–')}" for name in changed)


def counters_table(caption: str, first: KernelLaunch, second: KernelLaunch) -> ui.Table:
    stalls = {
        f"stalled: {f.label.replace('_', ' ')}": (f.name,) for f in counters.stalls(first) + counters.stalls(second)
    }
    columns = (
        ui.Column("counter"), ui.Column("first", "in its unit", True), ui.Column("second", "in its unit", True),
        ui.Column("change", "second ÷ first − 1, %", True), ui.Column("metric", "", False, True),
    )  # fmt: skip
    rows = []
    for label, names in {**COUNTERS, **stalls}.items():
        one, two = counters.one(first, names), counters.one(second, names)
        if one is None and two is None:
            continue
        known = two or one
        assert known is not None
        change = 100 * (two.value / one.value - 1) if one and two and one.value else None
        rows.append(
            (
                ui.Cell(label), human_cell(one.value if one else None, known.unit),
                human_cell(two.value if two else None, known.unit), ui.number_cell(change, 1), ui.Cell(known.name),
            )
        )  # fmt: skip
    return ui.Table(caption, columns, tuple(rows))


def lines_table(caption: str, first: ProfiledLaunch, second: ProfiledLaunch) -> ui.Table | None:
    """Source lines whose share of the samples changed most; a line is recognized by its text."""
    one, two = _samples(first), _samples(second)
    if not one or not two:
        return None
    totals = sum(one.values()), sum(two.values())
    share = {line: two[line] / totals[1] - one[line] / totals[0] for line in {*one, *two}}
    changed = sorted((line for line in share if share[line]), key=lambda line: (-abs(share[line]), line))
    if not changed:
        return None
    columns = (
        ui.Column("line", "", False, True), ui.Column("first", "samples, % of all", True),
        ui.Column("second", "samples, % of all", True),
        ui.Column("change", "percentage points", True), ui.Column("in"),
    )  # fmt: skip
    rows = []
    for line in changed[:MOST_LINES]:
        before, after = (100 * side[line] / total if line in side else None
                         for side, total in zip((one, two), totals, strict=True))  # fmt: skip
        where = "both" if before is not None and after is not None else "first" if after is None else "second"
        rows.append(
            (
                ui.Cell(line), ui.number_cell(before, 1), ui.number_cell(after, 1),
                ui.number_cell((after or 0.0) - (before or 0.0), 1), ui.Cell(where),
            )
        )  # fmt: skip
    return ui.Table(caption, columns, tuple(rows))


def _samples(entry: ProfiledLaunch) -> Counter[str]:
    """Samples by the text of the source line, its place where the report has no text; lines that ran, 0 included."""
    found: Counter[str] = Counter()
    texts: dict[str, list[str]] = {}
    for line in entry.sampled.lines:
        if line.file and line.line:
            if line.file not in texts:
                texts[line.file] = entry.profile.sources.get(line.file, "").splitlines()
            source = texts[line.file]
            short = line.file.replace("\\", "/").rpartition("/")[2]
            text = source[line.line - 1].strip() if line.line <= len(source) else f"{short}:{line.line}"
            found[text] += line.samples
    return found if sum(found.values()) else Counter()
