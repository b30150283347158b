"""The problems' part of the page "Compare": what `autotune profile` said of each before and after a change."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from autotune.dashboard import counters
from autotune.dashboard import page_elements as ui
from autotune.dashboard.human_units import human, human_cell
from autotune.dashboard.noise import Comparison, Noise, compare
from autotune.dashboard.page_data import PageData, ProfiledLaunch
from autotune.dashboard.pages import compare_launches
from autotune.dashboard.problem_names import short_names
from autotune.dashboard.problem_versions import ProblemSeries, ProblemVersion, problem_series, reports

MOST_PROBLEMS, MOST_STEPS, MOST_COUNTED = 60, 12, 24  # the last: kernels of a problem whose counters are listed
TONES = {"better": "good", "worse": "bad", "noise": "quiet"}


def details(data: PageData, noise: Noise) -> tuple[list[ui.Detail], ui.Table | None, str]:
    """A detail for each problem with several versions, a table of them, and a sentence; empty where there are none."""
    found = problem_series(reports(data))
    if not found:
        return [], None, ""
    short = short_names(one.problem for one in found)
    made = [_detail(place, one, short, noise) for place, one in enumerate(found[:MOST_PROBLEMS])]
    return made, _index(found, short, noise), _answer(found, short, noise)


def judged(first: ProblemVersion, second: ProblemVersion, noise: Noise) -> Comparison | None:
    """None where one of them was not timed."""
    return compare(first.time, second.time, noise) if first.time and second.time else None


def _answer(found: Sequence[ProblemSeries], short: Mapping[str, str], noise: Noise) -> str:
    verdicts = [(one, judged(*one.ends, noise)) for one in found]
    words = Counter(verdict.word if verdict else "not timed" for _, verdict in verdicts)
    text = f"Of {len(found)} problem{'s' * (len(found) > 1)} profiled in several versions, from the first to the last "
    text += f"{words['better']} got better, {words['worse']} worse, and {words['noise']} differ by no more than noise"
    text += f"; {words['not timed']} could not be judged, for lack of times." if words["not timed"] else "."
    changed = [(verdict.ratio, one) for one, verdict in verdicts if verdict and verdict.word != "noise"]
    if changed:
        ratio, one = max(changed, key=lambda pair: max(pair[0], 1 / pair[0]))
        first, last = one.ends
        assert first.time and last.time
        text += f" Most changed {short[one.problem]}: {human(first.time.median_ns, 'ns')} → "
        text += f"{human(last.time.median_ns, 'ns')} ({ratio:.3f} times)."
    return text


def _index(found: Sequence[ProblemSeries], short: Mapping[str, str], noise: Noise) -> ui.Table:
    columns = (
        ui.Column("problem", "", False, True), ui.Column("first", "median of a call", True),
        ui.Column("last", "median of a call", True), ui.Column("ratio", "last ÷ first", True),
        ui.Column("verdict"), ui.Column("what it ran with", "configuration", False, True),
        ui.Column("from", "", False, True), ui.Column("to", "", False, True),
    )  # fmt: skip
    rows = []
    for place, one in enumerate(found):
        first, last = one.ends
        verdict = judged(first, last, noise)
        href = f"#compare-problem-{place}" if place < MOST_PROBLEMS else None
        rows.append(
            (
                ui.Cell(short[one.problem], None, href, "", one.problem), _time(first), _time(last),
                ui.number_cell(verdict.ratio if verdict else None, 3), _word(verdict),
                ui.Cell(compare_launches.settings(first.config, last.config) or "the same"),
                *ui.texts([first.name, last.name]),
            )
        )  # fmt: skip
    return ui.Table("Problems before and after", columns, tuple(rows))


def _time(version: ProblemVersion) -> ui.Cell:
    return human_cell(version.time.median_ns if version.time else None, "ns")


def _word(verdict: Comparison | None) -> ui.Cell:
    return ui.Cell(verdict.word, None, None, TONES[verdict.word]) if verdict else ui.Cell("not timed", tone="quiet")


def _detail(place: int, one: ProblemSeries, short: Mapping[str, str], noise: Noise) -> ui.Detail:
    bars = tuple((version.name, (version.time.median_ns / 1e3 if version.time else None,)) for version in one.versions)
    blocks: list[ui.Block] = [
        *_said(*one.ends, noise),
        ui.Bars("Time by version", ui.Axis("median of a call", "µs", zero=True), ("time",), bars),
        _versions(one, noise),
        ui.Words(
            f"The problem is {one.problem}. A call's time is the median of calls that read fresh memory, without a "
            "profiler; counters are those of one launch of each kernel alone, whose times need not add up to a call's."
        ),
    ]
    steps = one.steps[-MOST_STEPS:]
    counted = len(steps) - MOST_COUNTED // max(1, *(len(version.kernels) for version in one.versions))
    for number, step in enumerate(steps):
        blocks.append(ui.Words(_caption(*step), heading=True))
        blocks += _said(*step, noise) if len(steps) > 1 else ()
        blocks += _tables(*step, number >= counted or number == len(steps) - 1)
    return ui.Detail(f"compare-problem-{place}", short[one.problem], tuple(blocks))


def _versions(one: ProblemSeries, noise: Noise) -> ui.Table:
    columns = (
        ui.Column("version", "report, and what was run", False, True), ui.Column("time", "median of a call", True),
        ui.Column("10%", "quantile of its calls", True), ui.Column("90%", "quantile of its calls", True),
        ui.Column("÷ first", "time ÷ the first version's", True), ui.Column("verdict", "against the first version"),
        ui.Column("needed", "bytes to read and write at least ÷ time", True),
        ui.Column("kernels", "in order"),
        ui.Column("ran", "what the problem runs with in that report"), ui.Column("GPU", "", False, True),
        ui.Column("commit", "of autotune"),
    )  # fmt: skip
    rows = []
    start = one.versions[0]
    for version in one.versions:
        verdict = judged(start, version, noise) if version is not start else None
        time = version.time
        speed = version.needed / time.median_ns * 1e9 if version.needed and time else None
        rows.append(
            (
                ui.Cell(version.name), _time(version), human_cell(time.q10_ns if time else None, "ns"),
                human_cell(time.q90_ns if time else None, "ns"), ui.number_cell(verdict.ratio if verdict else None, 3),
                ui.Cell("–") if version is start else _word(verdict), human_cell(speed, "byte/s"),
                ui.Cell(", ".join(entry.launch.kernel for entry in version.kernels) or "unknown"),
                ui.Cell("yes" if version.chosen else "no"), ui.Cell(version.report.chip),
                ui.Cell(version.report.commit or "unknown"),
            )
        )  # fmt: skip
    return ui.Table("Version by version", columns, tuple(rows))


def _caption(first: ProblemVersion, second: ProblemVersion) -> str:
    return f"{first.name} → {second.name}"


def _said(first: ProblemVersion, second: ProblemVersion, noise: Noise) -> list[ui.Block]:
    """What changed, in words: the call, then each of its kernels."""
    verdict = judged(first, second, noise)
    text = f"{_caption(first, second)}: "
    if verdict:
        text += f"{verdict.ratio:.3f} times the time ({verdict.low:.3f} to {verdict.high:.3f}), {verdict.word}."
    else:
        text += "one of them was not timed."
    changed = compare_launches.settings(first.config, second.config)
    text += f" Configuration: {changed}." if changed else " The configuration is the same."
    if first.report.commit != second.report.commit:
        text += f" Commit: {first.report.commit or 'unknown'} → {second.report.commit or 'unknown'}."
    if not (first.kernels and second.kernels):
        text += " One of them has no counters, so what changed within its kernels is unknown."
    words: list[ui.Block] = [ui.Words(text)]
    for one, two in matched(first.kernels, second.kernels):
        if one and two and (said := compare_launches.told(one, two, configured=False)):
            times = [human(entry.time_ns, "ns") if entry.time_ns is not None else "–" for entry in (one, two)]
            words.append(ui.Words(f"{_name(one, two)} ({' → '.join(times)} under the profiler):{said}"))
    return words


def _tables(first: ProblemVersion, second: ProblemVersion, counted: bool) -> list[ui.Block]:
    """counted: with the counters and source lines of every kernel."""
    if not (first.kernels and second.kernels):
        return []
    pairs, caption = matched(first.kernels, second.kernels), _caption(first, second)
    blocks: list[ui.Block] = [_kernels(f"{caption}: kernels", pairs)]
    for one, two in pairs:
        if counted and one and two:
            about = f"{_name(one, two)}, {caption}"
            blocks.append(compare_launches.counters_table(f"{about}: counters", one.launch, two.launch))
            lines = compare_launches.lines_table(f"{about}: source lines", one, two)
            blocks += [lines] if lines else []
    return blocks


def _name(one: ProfiledLaunch, two: ProfiledLaunch) -> str:
    return " → ".join(dict.fromkeys((one.launch.kernel, two.launch.kernel)))


Pairs = list[tuple[ProfiledLaunch | None, ProfiledLaunch | None]]


def matched(first: Sequence[ProfiledLaunch], second: Sequence[ProfiledLaunch]) -> Pairs:
    """Kernels of the same name in their order, then those that took another's place in theirs; None where one has no
    counterpart."""
    by_name: dict[str, list[ProfiledLaunch]] = defaultdict(list)
    for entry in second:
        by_name[entry.launch.kernel].append(entry)
    same = {entry: by_name[entry.launch.kernel].pop(0) for entry in first if by_name[entry.launch.kernel]}
    taken = set(same.values())
    others = iter([entry for entry in second if entry not in taken])
    pairs: Pairs = [(entry, same.get(entry) or next(others, None)) for entry in first]
    return [*pairs, *((None, entry) for entry in others)]


def _kernels(caption: str, pairs: Pairs) -> ui.Table:
    columns = (
        ui.Column("kernel, first"), ui.Column("kernel, second"),
        ui.Column("first", "one launch, caches empty", True), ui.Column("second", "one launch, caches empty", True),
        ui.Column("change", "second − first", True),
        ui.Column("bound by, first", "", False, True), ui.Column("bound by, second", "", False, True),
        ui.Column("grid, first"), ui.Column("grid, second"), ui.Column("block, first"), ui.Column("block, second"),
    )  # fmt: skip
    rows = []
    for pair in pairs:
        times = [entry.time_ns if entry else 0.0 for entry in pair]
        change = times[1] - times[0] if times[0] is not None and times[1] is not None else None
        rows.append(
            (
                *(ui.Cell(entry.launch.kernel if entry else "–") for entry in pair),
                *(human_cell(entry.time_ns if entry else None, "ns") for entry in pair), _change(change),
                *(ui.Cell(counters.bound(entry.launch) or "unknown" if entry else "–") for entry in pair),
                *(ui.Cell(compare_launches.size(entry.launch.grid) if entry else "–") for entry in pair),
                *(ui.Cell(compare_launches.size(entry.launch.block) if entry else "–") for entry in pair),
            )
        )  # fmt: skip
    return ui.Table(caption, columns, tuple(rows))


def _change(nanoseconds: float | None) -> ui.Cell:
    if nanoseconds is None:
        return ui.Cell("–", tone="quiet")
    return ui.Cell(f"{'+' if nanoseconds > 0 else ''}{human(nanoseconds, 'ns')}", nanoseconds)
