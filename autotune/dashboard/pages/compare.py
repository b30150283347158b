"""The page "Compare": of two runs, commits, GPUs or reports, whether the second is better, worse, or within noise."""

import itertools
from collections import Counter
from dataclasses import dataclass

from autotune.dashboard import page_elements as ui
from autotune.dashboard.noise import Comparison, Noise, compare, estimate_noise
from autotune.dashboard.page_data import Database, PageData, RunData
from autotune.dashboard.pages import compare_problems, compare_reports
from autotune.dashboard.problem_names import short_names
from tuning_db.records import Measurement, TrialKind

MOST_PAIRS = 12
TONES = {"better": "good", "worse": "bad", "noise": "quiet"}


@dataclass(frozen=True, eq=False)
class Side:
    """The best measurement of each problem in one database, on one device and commit."""

    name: str
    best: dict[str, Measurement]


@dataclass(frozen=True, eq=False)
class Pair:
    first: str
    second: str
    rows: tuple[tuple[str, Measurement, Measurement, Comparison], ...]


def page(data: PageData) -> ui.Page:
    noise = estimate_noise([run for database in _databases(data) for run in database.runs])
    pairs = _pairs(data, noise)
    details = tuple(_detail(place, pair, noise) for place, pair in enumerate(pairs[:MOST_PAIRS]))
    question = "Two runs, commits, GPUs or reports: is the second better, worse, or is it noise?"
    problems, before_after, changed = compare_problems.details(data, noise)
    reports, table, sentence = compare_reports.details(data)
    blocks: list[ui.Block] = [found for found in (before_after, table) if found is not None]
    if pairs or problems or not reports:
        blocks.append(ui.Words(_noise(noise)))
    if pairs:
        blocks.append(_index(pairs))
    tuned = _answer(pairs) if pairs or not (changed or sentence) else ""
    answer = " ".join(part for part in (changed, tuned, sentence) if part)
    return ui.Page("compare", "Compare", question, answer, tuple(blocks), "comparison", (*details, *problems, *reports))


def _databases(data: PageData) -> list[Database]:
    return [database for database in (data.database, data.against) if database is not None]


def _noise(noise: Noise) -> str:
    if noise.assumed:
        return (
            f"Only {noise.count} configurations were measured twice, too few to know the noise here: differences up to "
            f"{noise.band:.0%} are supposed to be noise."
        )
    where = "in another run" if noise.between_runs else "again, most of them in the same run"
    return (
        f"Noise: of {noise.count} configurations that were measured {where}, 98% came within {noise.band:.1%} of "
        "before (|ln(second ÷ first)|). An interval is the ratio of the medians times e^±b, where b adds to this, in "
        "squares, 2.33 standard errors of the two medians (1.2533 · (q90 − q10) ÷ 2.5631 ÷ √samples each)."
    )


def sides(data: PageData) -> list[Side]:
    """Sides to compare, in the order of the databases and of their runs, named by what they differ in."""
    found: dict[tuple[str, ...], dict[str, Measurement]] = {}
    for database in _databases(data):
        for run in database.runs:
            stored = run.stored
            device, commit = stored.device, stored.run.versions.get("commit", "unknown commit")
            where = f"{'against' if database is data.against else 'this'} {database.file.name}"
            _keep(found.setdefault((where, device.label, device.fingerprint, commit), {}), run)
    differ = [len(set(column)) > 1 for column in zip(*found, strict=True)]
    return [
        Side(" · ".join(part for part, telling in zip(parts, differ, strict=True) if telling) or "all", best)
        for parts, best in found.items()
    ]


def best_measurement(run: RunData) -> Measurement | None:
    """The best of the final comparison, where there was one: taken last, beside the rivals, with more samples."""
    measured = [t.trial for t in run.trials if t.trial.measurement is not None and t.trial.outcome.value == "ok"]
    last = [trial for trial in measured if trial.kind is TrialKind.FINAL_COMPARISON] or measured
    return min((t.measurement for t in last if t.measurement), key=lambda m: m.median_ns, default=None)


def _keep(best: dict[str, Measurement], run: RunData) -> None:
    measured, problem = best_measurement(run), run.stored.run.problem
    if measured and (problem not in best or measured.median_ns < best[problem].median_ns):
        best[problem] = measured


def _pairs(data: PageData, noise: Noise) -> list[Pair]:
    found = [
        _pair(one.name, other.name, one.best, other.best, noise)
        for one, other in itertools.combinations(sides(data), 2)
        if set(one.best) & set(other.best)
    ]
    again = _again(data.database, noise)
    return found + ([again] if again else [])


def _pair(name: str, other: str, one: dict[str, Measurement], two: dict[str, Measurement], noise: Noise) -> Pair:
    names = short_names(set(one) & set(two))
    rows = ((names[p], one[p], two[p], compare(one[p], two[p], noise)) for p in sorted(set(one) & set(two)))
    return Pair(name, other, tuple(sorted(rows, key=lambda row: (row[3].ratio, row[0]))))


def _again(database: Database, noise: Noise) -> Pair | None:
    """The last two runs of each problem that was tuned again on the same device."""
    runs: dict[tuple[str, str], list[RunData]] = {}
    for run in database.runs:
        if best_measurement(run):
            runs.setdefault((run.stored.device.fingerprint, run.stored.run.problem), []).append(run)
    one: dict[str, Measurement] = {}
    two: dict[str, Measurement] = {}
    for (_, problem), found in runs.items():
        if len(found) > 1:
            first, second = (best_measurement(run) for run in found[-2:])
            assert first and second
            one[problem], two[problem] = first, second
    return _pair("the run before", "the latest run", one, two, noise) if one else None


def _answer(pairs: list[Pair]) -> str:
    if not pairs:
        return "Nothing was tuned twice: another run, commit or GPU, or --against FILE, gives a comparison (0 pairs)."
    pair = pairs[0]
    count = Counter(v.word for *_, v in pair.rows)
    return (
        f"From {pair.first} to {pair.second}, of {len(pair.rows)} problems {count['better']} got better, "
        f"{count['worse']} worse, and {count['noise']} differ by no more than noise."
    )


def _index(pairs: list[Pair]) -> ui.Table:
    columns = (
        ui.Column("first"), ui.Column("second"), ui.Column("problems", "in both", True),
        ui.Column("better", "second faster", True),
        ui.Column("worse", "second slower", True), ui.Column("noise", "interval holds 1", True),
    )  # fmt: skip
    rows = []
    for place, pair in enumerate(pairs):
        count = Counter(v.word for *_, v in pair.rows)
        href = f"#compare-{place}" if place < MOST_PAIRS else None
        numbers = (ui.number_cell(count[word], 0) for word in ("better", "worse", "noise"))
        rows.append(
            (ui.Cell(pair.first, None, href), ui.Cell(pair.second), ui.number_cell(len(pair.rows), 0), *numbers)
        )
    return ui.Table("What can be compared", columns, tuple(rows))


def _detail(place: int, pair: Pair, noise: Noise) -> ui.Detail:
    spans = tuple(
        (name, ((v.low, v.high, f"{name}: {v.ratio:.3f} ({v.low:.3f}–{v.high:.3f}), {v.word}"),))
        for name, _, _, v in pair.rows
    )
    axis = ui.Axis("second median ÷ first median, 98% interval", "less is better")
    chart = ui.Spans("Second ÷ first", axis, spans, ((1.0, "equal"),))
    columns = (
        ui.Column("problem"), ui.Column("first", "median, µs", True), ui.Column("second", "median, µs", True),
        ui.Column("ratio", "second ÷ first", True), ui.Column("low", "98% interval", True),
        ui.Column("high", "98% interval", True), ui.Column("verdict"),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(name), ui.micros_cell(a.median_ns), ui.micros_cell(b.median_ns), ui.number_cell(v.ratio, 3),
            ui.number_cell(v.low, 3), ui.number_cell(v.high, 3), ui.Cell(v.word, None, None, TONES[v.word]),
        )
        for name, a, b, v in pair.rows
    )  # fmt: skip
    words = ui.Words(f"First: {pair.first}. Second: {pair.second}.")
    table = ui.Table("Problem by problem", columns, rows)
    return ui.Detail(f"compare-{place}", f"{pair.first} → {pair.second}", (words, chart, table))
