"""The page "Run": a search's convergence, its failures and their reasons, its time."""

from collections import Counter
from collections.abc import Sequence

from autotune.dashboard import page_elements as ui
from autotune.dashboard.page_data import Database, PageData, RunData
from autotune.dashboard.problem_names import short_names
from tuning_db.records import Outcome, Trial, TrialKind, searched

CONVERGED = 0.75  # a search that found its best in this first share of its trials could have stopped
TRIALS = "Every trial"
CLOSE = 1.02  # times the best's time is nearly the best


def page(data: PageData) -> ui.Page:
    database = data.database
    names = short_names(run.stored.run.problem for run in database.runs)
    details = tuple(_detail(run, names[run.stored.run.problem]) for run in database.runs)
    question = "Did each search converge, what failed and why, and where did its time go?"
    blocks = (_index(database, names),) if database.runs else ()
    return ui.Page("run", "Run", question, _answer(database), blocks, "run", details)


def settled(run: RunData) -> int | None:
    """After how many trials the best so far came within 2% of the best; without the final comparison."""
    times = [(place, ns) for place, ns in run.working if not _compared_again(run.trials[place].trial)]
    if not times:
        return None
    best = min(ns for _, ns in times)
    return next(place for place, ns in times if ns <= CLOSE * best) + 1


def failed(run: RunData) -> int:
    return searched(t.trial for t in run.trials if t.trial.outcome not in (Outcome.OK, Outcome.PRUNED))


def _compared_again(trial: Trial) -> bool:
    return trial.kind is TrialKind.FINAL_COMPARISON


def _compiled(run: RunData) -> float | None:
    """Seconds over all trials; None where no trial has one, as in some results of other tuners."""
    known = [t.trial.compile_s for t in run.trials if t.trial.compile_s is not None]
    return sum(known) if known else None


def _words(outcome: Outcome) -> str:
    return outcome.value.replace("_", " ")


def _answer(database: Database) -> str:
    runs = [run for run in database.runs if run.working]
    if not runs:
        return "No run has a trial that worked yet."
    trials = sum(run.searched for run in database.runs)
    lost = sum(failed(run) for run in database.runs)
    early = sum((settled(run) or 0) <= CONVERGED * run.searched for run in runs)
    reasons = Counter(
        _words(t.trial.outcome)
        for run in database.runs
        for t in run.trials
        if t.trial.outcome not in (Outcome.OK, Outcome.PRUNED)
    )
    why = f", mostly {reasons.most_common(1)[0][0]}" if reasons else ""
    return (
        f"{early} of {len(runs)} searches were within 2% of their best before the last quarter of their trials; "
        f"{lost} of {trials:,} trials failed ({lost / trials:.1%}{why})."
    )


def _index(database: Database, names) -> ui.Table:
    columns = (
        ui.Column("run", "", True), ui.Column("problem"), ui.Column("device"), ui.Column("sampler"),
        ui.Column("status"), ui.Column("trials", "the final comparison's not included", True),
        ui.Column("failed", "wrong, crashed, timed out or not compiled", True),
        ui.Column("best", "least median time, µs", True),
        ui.Column("settled", "trial whose time first came within 2% of the best", True),
        ui.Column("wall", "start to the last trial, s", True),
        ui.Column("compiling", "sum over trials, s; workers compile side by side", True),
        ui.Column("searched", "trials ÷ valid configurations", True),
    )  # fmt: skip
    rows = []
    for run in database.runs:
        stored, lost, best = run.stored, failed(run), run.best_place
        rows.append(
            (
                ui.Cell(str(stored.id), stored.id, f"#run-{stored.id}"),
                ui.link(names[stored.run.problem], f"run-{stored.id}"),
                ui.Cell(stored.device.label), ui.Cell(stored.run.sampler), ui.Cell(stored.status.value),
                ui.number_cell(run.searched, 0), ui.number_cell(lost, 0, "", "bad" if lost else "quiet"),
                ui.micros_cell(None if best is None else dict(run.working)[best]), ui.number_cell(settled(run), 0),
                ui.number_cell(run.ended_s[-1] if run.clocked else None, 1), ui.number_cell(_compiled(run), 1),
                ui.percent_cell(run.searched / stored.run.space_size if stored.run.space_size else None, "", 1),
            )
        )  # fmt: skip
    return ui.Table("Every run", columns, tuple(rows))


def _detail(run: RunData, name: str) -> ui.Detail:
    stored = run.stored
    blocks: list[ui.Block] = [ui.Words(_summary(run, name))]
    if run.working:
        blocks.append(progress(run, "Best so far by trial"))
    if run.working and run.clocked:
        axis = ui.Axis("wall time since the start", "s", zero=True)
        blocks.append(_progress(run, "Best so far by wall time", axis, run.ended_s))
    reasons = Counter(
        (_words(t.trial.outcome), t.trial.message or "no message")
        for t in run.trials
        if t.trial.outcome is not Outcome.OK
    )
    if reasons:
        columns = (ui.Column("outcome"), ui.Column("why"), ui.Column("trials", "", True))
        rows = tuple(
            (ui.Cell(kind), ui.Cell(why), ui.number_cell(count, 0))
            for (kind, why), count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        )
        blocks.append(ui.Table("What did not work, and why", columns, rows))
    blocks.append(_trials(run))
    return ui.Detail(f"run-{stored.id}", f"{stored.id} · {name}", tuple(blocks))


def _summary(run: RunData, name: str) -> str:
    stored = run.stored
    began = f"started {stored.began_at[:19].replace('T', ' ')} UTC" if stored.began_at else "started at an unknown time"
    text = (
        f"Run {stored.id}: {name} on {stored.device.label}, sampler {stored.run.sampler}, seed {stored.run.seed}, "
        f"{stored.status.value}, {began}, commit "
        f"{stored.run.versions.get('commit', 'unknown')}. Problem {stored.run.problem}."
    )
    if run.best_place is None or not run.ended_s:
        return text + " No trial worked."
    compiled = _compiled(run)
    text += f" The best so far came within 2% of the final best at trial {settled(run)} of {run.searched}"
    if run.clocked:
        text += f", after {run.ended_s[(settled(run) or 1) - 1]:.1f} of {run.ended_s[-1]:.1f} s."
    else:
        text += "; when each ended is unknown."
    if compiled is None:
        return f"{text} How long compiling took is unknown."
    if not run.clocked:
        return f"{text} Compiling took {compiled:.1f} s summed over trials."
    return (
        f"{text} Compiling took {compiled:.1f} s "
        f"summed over trials, {compiled / max(run.ended_s[-1], 1e-9):.1f} times the wall time, as workers compile side "
        "by side and other problems are tuned meanwhile; the rest is measuring, checking and waiting."
    )


def progress(run: RunData, title: str) -> ui.XY:
    """A run's trials by number, and the best so far; of a run in which something worked."""
    return _progress(run, title, ui.Axis("trial", zero=True), [float(place + 1) for place in range(len(run.trials))])


def _progress(run: RunData, title: str, x: ui.Axis, xs: Sequence[float]) -> ui.XY:
    dots, best, least = [], [], float("inf")
    for place, nanoseconds in run.working:
        micros = nanoseconds / 1e3
        dots.append((xs[place], micros, f"trial {place + 1}: {ui.micros_cell(nanoseconds).text} µs"))
        if micros < least:
            least = micros
            best.append((xs[place], micros, f"trial {place + 1}"))
    best.append((xs[-1], least, "end"))
    return ui.XY(
        title, x, ui.Axis("median time", "µs", log=True),
        (ui.Series("trials that worked", "dots", tuple(dots)), ui.Series("best so far", "steps", tuple(best))), TRIALS,
    )  # fmt: skip


def _trials(run: RunData) -> ui.Table:
    varied = sorted({name for t in run.trials for name in t.trial.config})
    columns = (
        ui.Column("trial", "", True), ui.Column("ended", "after the run's start, s", True), ui.Column("outcome"),
        ui.Column("time", "median, µs", True), ui.Column("best so far", "least median, µs", True),
        ui.Column("q10", "µs", True), ui.Column("q90", "µs", True), ui.Column("samples", "timed executions", True),
        ui.Column("compile", "s", True), ui.Column("error", "‖out − ref‖ ÷ ‖ref‖", True), ui.Column("note"),
        *(ui.Column(name, "parameter", False) for name in varied),
    )  # fmt: skip
    rows, least = [], float("nan")
    for place, timed in enumerate(run.trials):
        trial, measured = timed.trial, timed.trial.measurement
        if measured and trial.outcome is Outcome.OK and not measured.median_ns >= least:
            least = measured.median_ns
        rows.append(
            (
                ui.number_cell(place + 1, 0), ui.number_cell(run.ended_s[place] if run.clocked else None, 1),
                ui.Cell(_words(trial.outcome), None, None, "" if trial.outcome is Outcome.OK else "bad"),
                ui.micros_cell(measured.median_ns if measured else None), ui.micros_cell(least),
                ui.micros_cell(measured.q10_ns if measured else None),
                ui.micros_cell(measured.q90_ns if measured else None),
                ui.number_cell(measured.samples if measured else None, 0),
                ui.number_cell(trial.compile_s, 2), ui.number_cell(trial.error), ui.Cell(trial.message or ""),
                *(_setting(trial, parameter) for parameter in varied),
            )
        )  # fmt: skip
    return ui.Table(TRIALS, columns, tuple(rows))


def _setting(trial: Trial, name: str) -> ui.Cell:
    value = trial.config.get(name)
    return ui.Cell("–" if value is None else str(value), float(value) if isinstance(value, int | float) else None)
