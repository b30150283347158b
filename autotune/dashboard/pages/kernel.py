"""The page "Kernel": what limits a profiled kernel, by its counters and the rules."""

from collections import Counter
from collections.abc import Sequence

from autotune.dashboard import counters, problem_names
from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human, human_cell
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.metric_lists import metric_lists
from autotune.dashboard.page_data import PageData, ProfiledLaunch, launch_time
from autotune.dashboard.pages.kernel_charts import charts
from autotune.profiling import launch_metrics
from autotune.profiling.diagnosis import Finding
from tuning_db.profile_records import KernelLaunch, Metric, Profile, RuleFinding

MOST_STALLS = 10
MOST_DETAILS = 80  # so that a report of 600 different kernels stays a page that opens at once
COUNTERS = "Counters"
TONES = {"optimization": "warn", "warning": "warn", "error": "bad", "ok": "good"}


def page(data: PageData) -> ui.Page:
    profiled = data.profiled
    shown = detailed(profiled)
    packs: dict[str, bytes] = {}
    values: dict[int, tuple[str, ...]] = {}
    for number, profile in enumerate(data.database.profiles):
        mine = [place for place in shown if profiled[place].profile is profile]
        lists = metric_lists([profiled[place].launch for place in mine])
        if lists.pack:
            packs[f"metrics-{number}"] = lists.pack
            values |= dict(zip(mine, lists.values, strict=True))
    names = {profile.provenance.sha256: f"metrics-{number}" for number, profile in enumerate(data.database.profiles)}
    details, named = [], titles(profiled)
    for place in shown:
        entry = profiled[place]
        pack = names[entry.profile.provenance.sha256]
        listed = (
            ui.MetricList(f"All metrics of {label(entry.launch)}", pack, values[place]) if place in values else None
        )
        details.append(_detail(place, named[place], entry, listed))
    question = "What holds each kernel back?"
    blocks = (_index(profiled, shown, shown),) if profiled else ()
    answer = _answer(profiled)
    if len(shown) < len(profiled):
        answer += f" In detail: the {len(shown)} of {len(profiled)} kernels and sizes that took most time."
        everything = _index(profiled, range(len(profiled)), shown)
        details.append(ui.Detail("kernel-all", f"all {len(profiled)} kernels and sizes", (everything,)))
    return ui.Page("kernel", "Kernel", question, answer, blocks, "kernel", tuple(details), packs)


def detailed(profiled: Sequence[ProfiledLaunch]) -> list[int]:
    """Places of those that are shown in detail: all, or the MOST_DETAILS that took most time."""
    by_time = sorted(range(len(profiled)), key=lambda place: (-(_total(profiled[place]) or 0.0), place))
    return sorted(by_time[:MOST_DETAILS])


def _total(entry: ProfiledLaunch) -> float | None:
    """Nanoseconds of the launches that are alike; None where none was timed."""
    times = [time for launch in entry.alike if (time := launch_time(launch)) is not None]
    return sum(times) if times else None


def titles(profiled: Sequence[ProfiledLaunch]) -> list[str]:
    """Of the details of kernels, for the list to choose from: with their reports where there are several."""
    several = len({entry.profile.provenance.sha256 for entry in profiled}) > 1
    return [
        f"{place + 1} · {label(entry.launch)}" + (f", {entry.profile.provenance.file}" if several else "")
        for place, entry in enumerate(profiled)
    ]


def label(launch: KernelLaunch) -> str:
    """The kernel, and which of our configurations it is."""
    return launch.kernel + (f" ({launch.role})" if launch.role else "")


def findings(launch: KernelLaunch) -> list[RuleFinding]:
    """The rules that found something, the largest estimated gain of the whole kernel first."""
    found = [f for f in launch.findings if f.kind != "ok"]
    return sorted(found, key=lambda f: (f.gain_scope == "local", -(f.gain or 0.0), f.rule))


def redundancy(launch: KernelLaunch) -> float | None:
    """Bytes read from memory ÷ bytes that the problem cannot do without."""
    read, needed = counters.one(launch, counters.READ), counters.one(launch, counters.NEEDED)
    return read.value / needed.value if read and needed and needed.value else None


def limiter(launch: KernelLaunch) -> str | None:
    """The resource that allows the fewest blocks on a multiprocessor."""
    limits = counters.find(launch, counters.LIMITS)
    least = min((f.value for f in limits), default=None)
    return ", ".join(f.label for f in limits if f.value == least) or None


def _answer(profiled: tuple[ProfiledLaunch, ...]) -> str:
    if not profiled:
        return "No profile with counters has been imported: autotune import report.ncu-rep brings one in."
    launches = sum(len(entry.alike) for entry in profiled)
    text = f"{launches} launches of {len({entry.launch.kernel for entry in profiled})} kernels were profiled."
    known = [entry for entry in profiled if entry.causes]
    # What a launch of unknown time would gain is not known either.
    gains = [(entry.causes[0].gain * time, entry) for entry in known if (time := _total(entry)) is not None]
    if gains:
        most, worst = max(gains, key=lambda pair: pair[0])
        cause = worst.causes[0]
        if most:
            title = _lower(cause.heading)
            text += f" The most time to gain is in {label(worst.launch)}: {title}, up to {cause.gain:.0%} of it."
    if known:
        causes = Counter(entry.causes[0].heading for entry in known)
        title, count = min(causes.items(), key=lambda pair: (-pair[1], pair[0]))
        text += f" The most frequent finding is: {_lower(title)} ({count})."
    wasteful = sum((redundancy(entry.launch) or 0.0) > 1.1 for entry in profiled)
    return text + (f" {wasteful} read more than 1.1 times the bytes needed." if wasteful else "")


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _index(profiled: tuple[ProfiledLaunch, ...], places: Sequence[int], shown: Sequence[int]) -> ui.Table:
    columns = (
        ui.Column("kernel", "", False, True), ui.Column("problem", "", False, True),
        ui.Column("launches", "of the same sizes", True),
        ui.Column("time", "of the longest, gpu__time_duration or the timeline's", True),
        ui.Column("compute", "sm__throughput, % of peak", True),
        ui.Column("memory", "gpu__compute_memory_throughput, % of peak", True),
        ui.Column("DRAM", "gpu__dram_throughput, % of peak", True),
        ui.Column("occupancy", "sm__warps_active, % of peak", True), ui.Column("first stall"),
        ui.Column("read ÷ needed", "dram__bytes_read.sum ÷ bytes needed", True), ui.Column("top finding"),
        ui.Column("gain", "estimated, at best, % of the time", True), ui.Column("file"),
    )  # fmt: skip
    short = short_names(entry.launch.kernel for entry in profiled)
    problems = problem_names.short_names(entry.launch.problem for entry in profiled if entry.launch.problem)
    linked = set(shown)
    rows = []
    for place in places:
        entry = profiled[place]
        launch = entry.launch
        light = {f.label: f.value for f in counters.find(launch, counters.SPEED_OF_LIGHT)}
        occupancy = counters.one(launch, counters.OCCUPANCY["achieved"])
        waited, top = counters.stalls(launch)[:1], entry.causes[:1]
        name = short[launch.kernel] + (f" ({launch.role})" if launch.role else "")
        rows.append(
            (
                ui.Cell(name, None, f"#kernel-{place}" if place in linked else None, "", label(launch)),
                ui.Cell(problems[launch.problem], tip=launch.problem) if launch.problem else ui.Cell("–"),
                ui.number_cell(len(entry.alike), 0),
                human_cell(entry.time_ns, "ns"),
                *(ui.number_cell(light.get(n), 1) for n in ("compute (SM)", "memory, all levels", "DRAM")),
                ui.number_cell(occupancy.value if occupancy else None, 1),
                ui.Cell(waited[0].label.replace("_", " ") if waited else "–"), ui.number_cell(redundancy(launch), 2),
                ui.Cell(top[0].heading if top else "–"), ui.number_cell(100 * top[0].gain if top else None, 0),
                ui.Cell(entry.profile.provenance.file),
            )
        )  # fmt: skip
    return ui.Table("Profiled kernels, one of those of the same sizes", columns, tuple(rows))


def _detail(place: int, title: str, entry: ProfiledLaunch, metrics: ui.MetricList | None) -> ui.Detail:
    launch = entry.launch
    blocks: list[ui.Block] = [ui.Words(_summary(entry.profile, launch))]
    if len(entry.alike) > 1:
        blocks.append(ui.Words(_spread(entry)))
    if entry.causes:
        blocks += [
            ui.Words("What holds it back", heading=True),
            ui.Remarks(
                tuple(
                    (_cause(c), f"{c.text} {_shown(c)}", "warn" if c.gain or c.source else "good") for c in entry.causes
                )
            ),
        ]
    light = counters.find(launch, counters.SPEED_OF_LIGHT)
    if light:
        rows = tuple((f.label, (f.value,)) for f in light)
        blocks.append(
            ui.Bars("Speed of light", ui.Axis("throughput", "% of peak", zero=True), ("launch",), rows, twin=COUNTERS)
        )
    waited = counters.stalls(launch)
    if waited:
        rows = tuple((f.label.replace("_", " "), (f.value,)) for f in waited[:MOST_STALLS])
        ratio = waited[0].name.startswith(launch_metrics.STALLED)
        axis = ui.Axis(
            "warps stalled" if ratio else "samples",
            "for an issued instruction" if ratio else "of the program counter",
            zero=True,
        )
        blocks.append(ui.Bars("What warps wait for", axis, ("launch",), rows, twin=COUNTERS))
    blocks += charts(launch, entry.sampled)
    ranked = {(cause.cause, cause.title) for cause in entry.causes if cause.source}
    found = [finding for finding in findings(launch) if (finding.rule, finding.title) not in ranked]
    if found:
        blocks += [
            ui.Words("What else the tool's rules say", heading=True),
            ui.Remarks(tuple((_title(f), f.text, TONES.get(f.kind, "")) for f in found)),
        ]
    blocks.append(_counters(launch, [*light, *waited]))
    if metrics is not None:
        blocks += [ui.Words("All metrics", heading=True), metrics]
    return ui.Detail(f"kernel-{place}", title, tuple(blocks))


def _spread(entry: ProfiledLaunch) -> str:
    """What there is to say of the launches that are alike."""
    times = sorted(time for launch in entry.alike if (time := launch_time(launch)) is not None)
    text = f"The longest of {len(entry.alike)} launches of the same sizes."
    if times:
        middle = times[len(times) // 2]
        text += f" They took {human(times[0], 'ns')} to {human(times[-1], 'ns')}, half of them {human(middle, 'ns')} "
        text += f"or less, {human(sum(times), 'ns')} together."
    return text


def _cause(cause: Finding) -> str:
    return f"{cause.heading}: up to {cause.gain:.0%} of the time" if cause.gain else cause.heading


def _shown(cause: Finding) -> str:
    shown = (f"{m.name} {_value(m)}" for m in cause.metrics)
    text = ", ".join(shown)
    return f"({text})" if text else ""


def _value(metric: Metric) -> str:
    return metric.value if isinstance(metric.value, str) else human(metric.value, metric.unit, 4)


def _title(finding: RuleFinding) -> str:
    if finding.gain is None:
        return finding.title
    scope = "of the part it looks at" if finding.gain_scope == "local" else "of the kernel's time"
    return f"{finding.title}: estimated gain {finding.gain:.0f}% {scope}"


def _summary(profile: Profile, launch: KernelLaunch) -> str:
    parts = [f"{launch.kernel}, from {profile.provenance.file}"]
    if launch.grid and launch.block:
        grid, block = ("×".join(map(str, size)) for size in (launch.grid, launch.block))
        parts.append(f"{grid} blocks of {block} threads")
    time = launch_time(launch)
    if time is not None:
        parts.append(human(time, "ns", 4))
    text = ", ".join(parts) + "."
    if launch.problem:
        text += f" Launched for {launch.problem}" + (f", {launch.role}" if launch.role else "") + "."
    if launch.config:
        text += " Configuration " + " ".join(f"{n}={v}" for n, v in sorted(launch.config.items())) + "."
    achieved = counters.one(launch, counters.OCCUPANCY["achieved"])
    bound = limiter(launch)
    if achieved and bound:
        text += f" Occupancy {achieved.value:.0f}% of the warps possible; what allows the fewest blocks: {bound}."
    times = redundancy(launch)
    if times is not None:
        text += f" It read {times:.2f} times the bytes that the problem needs."
    return text


def _counters(launch: KernelLaunch, shown: list[counters.CounterValue]) -> ui.Table:
    wanted = {**counters.LAUNCH, **counters.OCCUPANCY, "bytes read": counters.READ, "bytes needed": counters.NEEDED}
    limits = {f"blocks allowed by {name}": names for name, names in counters.LIMITS.items()}
    found = [*counters.find(launch, wanted), *counters.find(launch, limits), *shown]
    columns = (ui.Column("what"), ui.Column("value", "", True), ui.Column("unit"), ui.Column("metric", "", False, True))
    rows = [
        (ui.Cell(f.label.replace("_", " ")), ui.number_cell(f.value), ui.Cell(f.unit), ui.Cell(f.name)) for f in found
    ]
    times = redundancy(launch)
    if times is not None:
        rows.append(
            (
                ui.Cell("bytes read ÷ bytes needed"),
                ui.number_cell(times, 2),
                ui.Cell(""),
                ui.Cell("dram__bytes_read.sum ÷ needed"),
            )
        )
    return ui.Table(COUNTERS, columns, tuple(rows))
