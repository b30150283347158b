"""The reports' part of the page "Compare": a kernel, or a whole program, version by version."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from autotune.dashboard import counters
from autotune.dashboard import page_elements as ui
from autotune.dashboard.hardware_use import L1_HITS, L2_HITS
from autotune.dashboard.human_units import human_cell
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.noise import Comparison, Noise
from autotune.dashboard.page_data import PageData, ProfiledLaunch
from autotune.dashboard.pages import compare_programs
from autotune.dashboard.report_versions import Series, Version, judged, noise_of, series, times, versions
from autotune.profiling import launch_metrics
from tuning_db.profile_records import KernelLaunch

MOST_SERIES, MOST_STEPS, MOST_LINES = 60, 12, 12
TONES = {"better": "good", "worse": "bad", "noise": "quiet"}
COUNTERS: dict[str, counters.Names] = {
    **counters.LAUNCH, **{f"occupancy, {name}": names for name, names in counters.OCCUPANCY.items()},
    **counters.SPEED_OF_LIGHT, **{f"blocks allowed by {name}": names for name, names in counters.LIMITS.items()},
    "L1/TEX hits": L1_HITS, "L2 hits": L2_HITS, "read from DRAM": counters.READ,
    "written to DRAM": (launch_metrics.DRAM_WRITE,), "L2 to L1": (launch_metrics.FETCHED,),
    "L1 to L2": (launch_metrics.SENT,), "bank conflicts": (launch_metrics.CONFLICTS,),
    "instructions": ("inst_executed", "smsp__inst_executed.sum", "Executed Instructions"),
    "shared memory of a block": ("launch__shared_mem_per_block",),
}  # fmt: skip


def details(data: PageData) -> tuple[list[ui.Detail], ui.Table | None, str]:
    """Details of what can be compared, a table of them, and a sentence; empty where fewer than two reports share
    anything."""
    found = versions(data)
    if len(found) < 2:
        return [], None, ""
    noise, kernels = noise_of(found), series(found)[:MOST_SERIES]
    made = [compare_programs.detail(found)] if compare_programs.comparable(found) else []
    short = short_names(one.entries[-1].launch.kernel for one in kernels)
    made += [_kernel(place, one, found, noise, short) for place, one in enumerate(kernels)]
    table = _index(kernels, found, noise, short) if kernels else None
    whole = compare_programs.sentence(found) if compare_programs.comparable(found) else ""
    return made, table, " ".join(part for part in (_answer(kernels, noise, found), whole) if part)


def _answer(kernels: Sequence[Series], noise: Noise, found: Sequence[Version]) -> str:
    words: Counter[str] = Counter()
    for one in kernels:
        verdict = judged(one.entries[0], one.entries[-1], noise)
        words[verdict.word if verdict else "not timed"] += 1
    if not kernels:
        return ""
    text = f"Of {len(kernels)} profiled kernels that several of {len(found)} reports have, from the first report to "
    text += (
        f"the last {words['better']} got better, {words['worse']} worse, and {words['noise']} differ by no more than "
    )
    return (
        text
        + "noise"
        + (f"; {words['not timed']} could not be judged, for lack of times." if words["not timed"] else ".")
    )


def _index(kernels: Sequence[Series], found: Sequence[Version], noise: Noise, short: Mapping[str, str]) -> ui.Table:
    columns = (
        ui.Column("kernel", "", False, True), ui.Column("reports", "that have it", True),
        ui.Column("first", "median of its launches", True), ui.Column("last", "median of its launches", True),
        ui.Column("ratio", "last ÷ first", True), ui.Column("verdict"),
        ui.Column("bound by, first", "", False, True), ui.Column("bound by, last", "", False, True),
        ui.Column("recognized by", "", False, True), ui.Column("from", "", False, True),
        ui.Column("to", "", False, True),
    )  # fmt: skip
    rows = []
    for place, one in enumerate(kernels):
        first, last = one.entries[0], one.entries[-1]
        verdict = judged(first, last, noise)
        name = last.launch.kernel
        rows.append(
            (
                ui.Cell(short[name], None, f"#compare-kernel-{place}", "", name), ui.number_cell(len(one.entries), 0),
                human_cell(_median(first), "ns"), human_cell(_median(last), "ns"),
                ui.number_cell(verdict.ratio if verdict else None, 3), _word(verdict),
                *ui.texts([counters.bound(entry.launch) or "unknown" for entry in (first, last)]), ui.Cell(one.how),
                *ui.texts([found[place].name for place in (one.places[0], one.places[-1])]),
            )
        )  # fmt: skip
    return ui.Table("Kernels that several reports have", columns, tuple(rows))


def _median(entry: ProfiledLaunch) -> float | None:
    ordered = sorted(times(entry))
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def _word(verdict: Comparison | None) -> ui.Cell:
    return ui.Cell(verdict.word, None, None, TONES[verdict.word]) if verdict else ui.Cell("not timed", tone="quiet")


def _noise(noise: Noise) -> str:
    if noise.assumed:
        return (
            f"Too few launches were alike to know the noise: differences up to {noise.band:.0%} are supposed to be it."
        )
    return f"Noise: of {noise.count} launches that followed one alike, 98% took within {noise.band:.1%} of its time."


def _kernel(
    place: int, one: Series, found: Sequence[Version], noise: Noise, short: Mapping[str, str]
) -> ui.Detail:  # fmt: skip
    name = one.entries[-1].launch.kernel
    blocks: list[ui.Block] = [ui.Words(f"{name}, recognized by {one.how}. {_noise(noise)}")]
    bars = tuple(
        (found[at].name, ((_median(entry) or 0.0) / 1e3 if times(entry) else None,))
        for at, entry in zip(one.places, one.entries, strict=True)
    )
    blocks.append(ui.Bars("Time by version", ui.Axis("median of its launches", "µs", zero=True), ("time",), bars))
    blocks.append(_versions(one, found, noise))
    steps = list(itertools.pairwise(zip(one.places, one.entries, strict=True)))[-MOST_STEPS:]
    if len(one.entries) > 2:
        steps.append(((one.places[0], one.entries[0]), (one.places[-1], one.entries[-1])))
    for (here, first), (there, second) in steps:
        blocks += _step(found[here].name, found[there].name, first, second, noise)
    return ui.Detail(f"compare-kernel-{place}", f"kernel {place + 1} · {short[name]}", tuple(blocks))


def _versions(one: Series, found: Sequence[Version], noise: Noise) -> ui.Table:
    columns = (
        ui.Column("version", "", False, True), ui.Column("time", "median of its launches", True),
        ui.Column("ratio", "÷ the version before", True), ui.Column("verdict", "against the version before"),
        ui.Column("÷ first", "time ÷ the first version's", True), ui.Column("bound by", "", False, True),
        ui.Column("occupancy", "achieved, % of the warps possible", True), ui.Column("registers", "a thread", True),
        ui.Column("grid"), ui.Column("block"), ui.Column("first finding", "", False, True),
        ui.Column("gain", "estimated, at best, % of its time", True),
    )  # fmt: skip
    rows = []
    before: ProfiledLaunch | None = None
    for at, entry in zip(one.places, one.entries, strict=True):
        launch = entry.launch
        verdict = judged(before, entry, noise) if before else None
        whole = judged(one.entries[0], entry, noise) if before else None
        occupancy = counters.one(launch, counters.OCCUPANCY["achieved"])
        registers = counters.one(launch, counters.LAUNCH["registers a thread"])
        finding = entry.causes[0] if entry.causes else None
        rows.append(
            (
                ui.Cell(found[at].name), human_cell(_median(entry), "ns"),
                ui.number_cell(verdict.ratio if verdict else None, 3), _word(verdict) if before else ui.Cell("–"),
                ui.number_cell(whole.ratio if whole else None, 3), ui.Cell(counters.bound(launch) or "unknown"),
                ui.number_cell(occupancy.value if occupancy else None, 1),
                ui.number_cell(registers.value if registers else None, 0),
                *ui.texts(["×".join(map(str, size)) if size else "–" for size in (launch.grid, launch.block)]),
                ui.Cell(finding.heading if finding else "–"),
                ui.number_cell(100 * finding.gain if finding and finding.gain else None, 0),
            )
        )  # fmt: skip
        before = entry
    return ui.Table("Version by version", columns, tuple(rows))


def _step(here: str, there: str, first: ProfiledLaunch, second: ProfiledLaunch, noise: Noise) -> list[ui.Block]:
    verdict = judged(first, second, noise)
    blocks: list[ui.Block] = [ui.Words(f"{here} → {there}", heading=True)]
    if verdict:
        text = f"{verdict.ratio:.3f} times the time ({verdict.low:.3f} to {verdict.high:.3f}): {verdict.word}."
    else:
        text = "One of them was not timed."
    if settings := _settings(first.launch, second.launch):
        text += f" Configuration: {settings}."
    told = {finding.heading for finding in first.causes}, {finding.heading for finding in second.causes}
    gone, new = sorted(told[0] - told[1]), sorted(told[1] - told[0])
    text += f" Findings that went away: {'; '.join(gone)}." if gone else ""
    text += f" New findings: {'; '.join(new)}." if new else ""
    blocks.append(ui.Words(text))
    blocks.append(_counters(f"{here} → {there}: counters", first.launch, second.launch))
    lines = _lines(f"{here} → {there}: source lines", first, second)
    return blocks + ([lines] if lines else [])


def _settings(first: KernelLaunch, second: KernelLaunch) -> str:
    """Parameters of our configurations that differ, "warps 4 → 16"."""
    one, two = dict(first.config or {}), dict(second.config or {})
    changed = sorted(name for name in {**one, **two} if one.get(name) != two.get(name))
    return ", ".join(f"{name} {one.get(name, '–')} → {two.get(name, '–')}" for name in changed)


def _counters(caption: str, first: KernelLaunch, second: KernelLaunch) -> ui.Table:
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


def _lines(caption: str, first: ProfiledLaunch, second: ProfiledLaunch) -> ui.Table | None:
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
