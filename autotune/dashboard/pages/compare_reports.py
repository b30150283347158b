"""The reports' part of the page "Compare": a kernel, or a whole program, version by version."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from autotune.dashboard import counters
from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human_cell
from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.noise import Comparison, Noise
from autotune.dashboard.page_data import PageData, ProfiledLaunch
from autotune.dashboard.pages import compare_launches, compare_programs
from autotune.dashboard.report_versions import Series, Version, judged, noise_of, series, times, versions

MOST_SERIES, MOST_STEPS = 60, 12
TONES = {"better": "good", "worse": "bad", "noise": "quiet"}


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
    text += compare_launches.told(first, second)
    blocks.append(ui.Words(text))
    blocks.append(compare_launches.counters_table(f"{here} → {there}: counters", first.launch, second.launch))
    lines = compare_launches.lines_table(f"{here} → {there}: source lines", first, second)
    return blocks + ([lines] if lines else [])
