"""The charts of a profiled kernel: memory, pipes, instructions, roofline, occupancy by cause."""

from autotune.dashboard import counters
from autotune.dashboard import page_elements as ui
from autotune.dashboard.hardware_use import L1_HITS, L2_HITS, instruction_mix, pipes, roofline, traffic
from autotune.profiling import launch_metrics
from autotune.profiling.launch_metrics import LaunchMetrics
from tuning_db.profile_records import KernelLaunch

MOST_PIPES, MOST_OPCODES = 12, 14
LIMIT_NAMES = {"shared_mem": "shared memory"}


def charts(launch: KernelLaunch, sampled: KernelLaunch) -> list[ui.Block]:
    """Those that the report has counters for. sampled: the launch like this one that has machine code, if any does."""
    made = (_memory(launch), _occupancy(launch), _roofline(launch), _pipes(launch), _instructions(sampled))
    return [chart for chart in made if chart is not None]


def _memory(launch: KernelLaunch) -> ui.MemoryChart | None:
    found, here = traffic(launch), LaunchMetrics(launch)
    hits = {name: counters.one(launch, names) for name, names in (("L1", L1_HITS), ("L2", L2_HITS))}
    if not found.known and not any(hits.values()):
        return None

    def level(name: str, metric: str, key: str = "") -> ui.Level:
        hit = hits.get(key)
        return ui.Level(name, hit.value / 100 if hit else None, here.share(metric))

    passes, conflicts = here.number(launch_metrics.WAVEFRONTS), here.number(launch_metrics.CONFLICTS)
    text = ""
    if passes is not None:
        text = f"{passes:,.0f} passes"
        if passes and conflicts is not None:
            text += f", {min(conflicts / passes, 1):.1%} bank conflicts"
    duration = counters.one(launch, counters.LAUNCH["duration"])
    return ui.MemoryChart(
        "Memory",
        (
            ui.Level("SMs", None, here.share(launch_metrics.SM)), level("L1/TEX", launch_metrics.L1, "L1"),
            level("L2", launch_metrics.L2, "L2"), level("DRAM", launch_metrics.DRAM),
        ),
        (found.requested_read, found.fetched, found.dram_read),
        (found.requested_written, found.sent, found.dram_written),
        ui.Level("shared memory"), text, duration.value / 1e9 if duration else None,
    )  # fmt: skip


def _occupancy(launch: KernelLaunch) -> ui.Bars | None:
    """From all warps that a multiprocessor can hold to those that were there, and what took the others."""
    here = LaunchMetrics(launch)
    possible = counters.one(launch, counters.OCCUPANCY["theoretical"])
    achieved = counters.one(launch, counters.OCCUPANCY["achieved"])
    if possible is None and achieved is None:
        return None
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    if possible is not None:
        limits = here.limits() or {f.label: f.value for f in counters.find(launch, counters.LIMITS)}
        least = min(limits.values(), default=None)
        causes = ", ".join(LIMIT_NAMES.get(name, name) for name, value in limits.items() if value == least)
        if possible.value < 99.95:
            rows.append((f"taken by {causes or 'an unknown limit'}", (100 - possible.value,)))
        rows.append(("possible", (possible.value,)))
    if achieved is not None:
        if possible is not None and possible.value > achieved.value:
            rows.append((_lost(here), (possible.value - achieved.value,)))
        rows.append(("achieved", (achieved.value,)))
    axis = ui.Axis("warps on a multiprocessor while it works", "% of what it can hold", zero=True)
    return ui.Bars("Occupancy by cause", axis, ("launch",), tuple(rows))


def _lost(here: LaunchMetrics) -> str:
    """Why fewer warps were there than possible: what the counters show of it."""
    waves = here.waves
    if waves is None:
        return "not reached, cause unknown"
    if waves < 1:
        return f"not reached: a grid of {waves:.2f} waves"
    if waves % 1 and waves < 8:
        return f"not reached: {waves:.2f} waves, uneven blocks"
    return "not reached: uneven blocks or warps"


def _pipes(launch: KernelLaunch) -> ui.Bars | None:
    rows = tuple((f.label, (f.value,)) for f in pipes(launch)[:MOST_PIPES] if f.value > 0)
    axis = ui.Axis("used while the multiprocessor works", "% of its cycles", zero=True)
    return ui.Bars("Pipes", axis, ("launch",), rows) if rows else None


def _instructions(launch: KernelLaunch) -> ui.Bars | None:
    mix, counted = instruction_mix(launch)
    total = sum(mix.values())
    if not total:
        return None
    shown = sorted(mix.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(name, (100 * count / total,)) for name, count in shown[:MOST_OPCODES]]
    rest = sum(count for _, count in shown[MOST_OPCODES:])
    if rest:
        rows.append((f"{len(shown) - MOST_OPCODES} others", (100 * rest / total,)))
    what = f"of {total:,} instructions of warps" if counted else f"of {total:,} in the machine code, not counted"
    return ui.Bars("Instruction mix", ui.Axis(what, "%", zero=True), ("launch",), tuple(rows))


def _roofline(launch: KernelLaunch) -> ui.XY | None:
    found = roofline(launch)
    if found is None or not found.bytes_s:
        return None
    series = []
    xs = [roof.rate / found.bytes_s for roof in found.roofs]
    left = min(xs) / 4
    for roof, x in zip(found.roofs, xs, strict=True):
        share = f", {roof.rate / roof.peak:.1%} of the peak" if roof.peak else ""
        text = f"{roof.name}: {roof.rate / 1e9:,.1f} Gop/s at {x:.3g} op/byte{share}"
        series.append(ui.Series(roof.name, "dots", ((x, roof.rate / 1e9, text),)))
    peaks = [roof.peak for roof in found.roofs if roof.peak]
    if found.bytes_peak:
        top = max(peaks, default=max(xs) * 4 * found.bytes_peak)
        name = f"DRAM: {found.bytes_peak / 1e9:,.0f} GB/s"
        ends = ((left, left * found.bytes_peak / 1e9, name), (top / found.bytes_peak, top / 1e9, name))
        series.append(ui.Series(name, "line", ends))
        for roof in found.roofs:
            if roof.peak:
                name = f"{roof.name} peak: {roof.peak / 1e9:,.0f} Gop/s"
                right = 4 * max(top / found.bytes_peak, max(xs))
                ends = ((roof.peak / found.bytes_peak, roof.peak / 1e9, name), (right, roof.peak / 1e9, name))
                series.append(ui.Series(name, "line", ends, dashed=True))
    return ui.XY(
        "Roofline, from the report's own counters and clocks",
        ui.Axis("operations ÷ bytes read from and written to DRAM", "op/byte", log=True),
        ui.Axis("operations ÷ time", "Gop/s", log=True), tuple(series),
    )  # fmt: skip
