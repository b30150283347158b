"""A whole program on the page "Compare": what each report recorded in all, and kernel by kernel to the next report."""

import itertools
from collections.abc import Mapping, Sequence

from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human, human_cell
from autotune.dashboard.kernel_groups import KernelTime
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.report_versions import Version
from autotune.profiling.trace_time import shares

MOST_STEPS, MOST_KERNELS = 12, 40


def comparable(found: Sequence[Version]) -> bool:
    """Whether two neighbouring reports have a kernel in common, and times to compare."""
    timed = [{kernel.name for kernel in version.kernels if kernel.ns is not None} for version in found]
    return any(one & two for one, two in itertools.pairwise(timed))


def sentence(found: Sequence[Version]) -> str:
    """From the first to the last of the reports that were timed."""
    timed = [(version.name, total) for version in found if (total := kernel_time(version)) is not None]
    if len(timed) < 2:
        return ""
    (first, before), (last, after) = timed[0], timed[-1]
    text = f"From {first} to {last} the kernels of the whole program went from {human(before, 'ns')} to "
    return text + f"{human(after, 'ns')}" + (f" ({after / before:.3f} times)." if before else ".")


def kernel_time(version: Version) -> float | None:
    """Nanoseconds, summed over launches; None where none was timed."""
    known = [kernel.ns for kernel in version.kernels if kernel.ns is not None]
    return sum(known) if known else None


def detail(found: Sequence[Version]) -> ui.Detail:
    """All kernels of each report together, and from one report to the next by kernel."""
    columns = (
        ui.Column("version", "", False, True), ui.Column("kernel time", "sum over launches", True),
        ui.Column("÷ before", "kernel time ÷ that of the report before", True),
        ui.Column("launches", "of kernels", True),
        ui.Column("span", "first start to last end", True), ui.Column("copies alone", "no kernel beside", True),
        ui.Column("fills alone", "neither beside", True), ui.Column("idle", "nothing ran", True),
    )  # fmt: skip
    rows, before = [], None
    for version in found:
        total = kernel_time(version)
        parts = shares(version.trace) if len(version.trace) else None
        rows.append(
            (
                ui.Cell(version.name), human_cell(total, "ns"),
                ui.number_cell(total / before if total is not None and before else None, 3),
                ui.number_cell(sum(kernel.count for kernel in version.kernels), 0),
                *(human_cell(value, "ns") for value in
                  ((parts.span_ns, parts.copies_ns, parts.fills_ns, parts.idle_ns) if parts else (None,) * 4)),
            )
        )  # fmt: skip
        before = total
    blocks: list[ui.Block] = [
        ui.Words("What each report recorded in all; whether a sum changed by more than noise, one run cannot tell."),
        ui.Table("Report by report", columns, tuple(rows)),
    ]
    for one, two in list(itertools.pairwise(found))[-MOST_STEPS:]:
        table = _kernels(one, two)
        blocks += [table] if table else []
    return ui.Detail("compare-program", "the whole program", tuple(blocks))


def _kernels(one: Version, two: Version) -> ui.Table | None:
    first, second = ({kernel.name: kernel for kernel in version.kernels} for version in (one, two))
    if not set(first) & set(second):
        return None
    columns = (
        ui.Column("kernel", "", False, True), ui.Column("first", "sum over launches", True),
        ui.Column("second", "sum over launches", True), ui.Column("change", "second − first", True),
        ui.Column("ratio", "second ÷ first", True), ui.Column("launches, first", "how many", True),
        ui.Column("launches, second", "how many", True),
    )  # fmt: skip
    short = short_names({**first, **second})

    def time(side: Mapping[str, KernelTime], name: str) -> float | None:
        return side[name].ns if name in side else None

    def change(name: str) -> float:
        return (time(second, name) or 0.0) - (time(first, name) or 0.0)

    names = sorted({**first, **second}, key=lambda name: (-abs(change(name)), name))
    rows = []
    for name in names[:MOST_KERNELS]:
        before, after = time(first, name), time(second, name)
        known = (before is not None or name not in first) and (after is not None or name not in second)
        count = [ui.number_cell(side[name].count if name in side else 0, 0) for side in (first, second)]
        difference = change(name) if known else None
        shown = ui.Cell("–", tone="quiet") if difference is None else ui.Cell(
            f"{'+' if difference > 0 else ''}{human(difference, 'ns')}", difference)  # fmt: skip
        rows.append(
            (
                ui.Cell(short[name], None, None, "", name), human_cell(before, "ns"), human_cell(after, "ns"), shown,
                ui.number_cell(after / before if before and after is not None else None, 3), *count,
            )
        )  # fmt: skip
    return ui.Table(f"{one.name} → {two.name}: kernels whose time changed most", columns, tuple(rows))
