"""The page "Parameters": the importance of each parameter, by problem."""

from collections import Counter, defaultdict

from autotune.dashboard import page_elements as ui
from autotune.dashboard.importance import LEAST, Importance, importance
from autotune.dashboard.page_data import Database, PageData
from autotune.dashboard.problem_names import short_names
from kernel_templates.device import Device

SHOWN = 8  # parameters with a chart, the most important; a layer has fifty
Group = tuple[Device, str, int]


def page(data: PageData) -> ui.Page:
    found = _importances(data.database)
    names = short_names(problem for _, problem, _ in found)
    several = len({device for device, _, _ in found}) > 1
    labels = {group: names[group[1]] + (f" on {group[0].label}" if several else "") for group in found}
    details = tuple(
        _detail(f"parameters-{place}", labels[group], group, one) for place, (group, one) in enumerate(found.items())
    )
    question = "What matters: which parameters decide a kernel's time?"
    blocks = (_index(found, labels),) if found else ()
    return ui.Page("parameters", "Parameters", question, _answer(found), blocks, "problem", details)


def _importances(database: Database) -> dict[Group, Importance]:
    """Importances by device, problem and template version, all runs together."""
    trials = defaultdict(list)
    for run in database.runs:
        stored = run.stored
        for place, nanoseconds in run.working:
            trials[stored.device, stored.run.problem, stored.run.template_version].append(
                (run.trials[place].trial.config, nanoseconds)
            )
    return {group: importance(found) for group, found in trials.items()}


def _first(shares) -> tuple[str, float] | None:
    return next(iter(shares.items())) if shares else None


def _answer(found: dict[Group, Importance]) -> str:
    known = [one for one in found.values() if one.ped_anova]
    if not known:
        return f"No problem has {LEAST} trials that worked and differ yet, so nothing can be said about parameters."
    explain = Counter(top[0] for one in known if (top := _first(one.fanova)))
    select = Counter(top[0] for one in known if (top := _first(one.ped_anova)))
    agree = sum(bool(one.fanova) and _first(one.fanova)[0] == _first(one.ped_anova)[0] for one in known)  # type: ignore[index]
    name, count = select.most_common(1)[0]
    text = f"What tells the best tenth from the rest (PED-ANOVA) is most often {name}: in {count} of {len(known)}."
    if not explain:
        return text + " fANOVA needs scikit-learn: ./scripts/setup_env dashboard."
    other, often = explain.most_common(1)[0]
    return (
        f"{text} What explains the times over everything tried (fANOVA) is most often {other}, in {often}. "
        f"Both name the same parameter first in {agree}."
    )


def _index(found: dict[Group, Importance], labels) -> ui.Table:
    columns = (
        ui.Column("problem"), ui.Column("trials", "that worked", True),
        ui.Column("first by fANOVA", "explains the variance of the time"), ui.Column("share", "of the variance", True),
        ui.Column("first by PED-ANOVA", "tells the best tenth from the rest"),
        ui.Column("share", "of the importance", True),
    )  # fmt: skip
    rows = []
    for place, (group, one) in enumerate(found.items()):
        tops = [_first(one.fanova), _first(one.ped_anova)]
        cells = [c for top in tops for c in (ui.Cell(top[0] if top else "–"), ui.percent_cell(top[1] if top else None))]
        rows.append((ui.link(labels[group], f"parameters-{place}"), ui.number_cell(one.trials, 0), *cells))
    return ui.Table("What matters most, by problem", columns, tuple(rows))


def _detail(id: str, label: str, group: Group, one: Importance) -> ui.Detail:
    device, problem, version = group
    blocks: list[ui.Block] = [
        ui.Words(
            f"{label}: {one.trials} trials that worked, {device.label}, template version {version}. Problem {problem}."
        )
    ]
    if one.ped_anova is None:
        blocks.append(
            ui.Words(f"Fewer than {LEAST} trials worked, or nothing varied: no importances, only what was measured.")
        )
    else:
        blocks.append(_chart(one))
    order = list(one.fanova or one.ped_anova or one.slices)
    for name in order[:SHOWN]:
        slices = one.slices[name]
        chart = ui.Bars(
            f"Slice of {name}", ui.Axis("time", "µs", zero=True), ("best", "median"),
            tuple((f"{s.value} ({s.count})", (s.best_ns / 1e3, s.median_ns / 1e3)) for s in slices),
        )  # fmt: skip
        blocks.append(chart)
    if len(order) > SHOWN:
        blocks.append(_slices(one, order[SHOWN:]))
    return ui.Detail(id, label, tuple(blocks))


def _chart(one: Importance) -> ui.Bars:
    fanova, ped_anova = one.fanova or {}, one.ped_anova or {}
    order = sorted(ped_anova, key=lambda name: (-max(fanova.get(name, 0.0), ped_anova[name]), name))
    left = f", {SHOWN} of {len(order)}" if len(order) > SHOWN else ""
    return ui.Bars(
        f"Importance by two evaluators of Optuna{left}", ui.Axis("share of the importance", "%", zero=True),
        ("fANOVA" + ("" if one.fanova else " (needs scikit-learn)"), "PED-ANOVA"),
        tuple((n, (100 * fanova[n] if n in fanova else None, 100 * ped_anova[n])) for n in order[:SHOWN]),
    )  # fmt: skip


def _slices(one: Importance, order: list[str]) -> ui.Table:
    columns = (
        ui.Column("parameter"), ui.Column("value"), ui.Column("trials", "that worked", True),
        ui.Column("best", "least median time, µs", True), ui.Column("median", "of median times, µs", True),
    )  # fmt: skip
    rows = tuple(
        (
            ui.Cell(name),
            ui.Cell(str(s.value)),
            ui.number_cell(s.count, 0),
            ui.micros_cell(s.best_ns),
            ui.micros_cell(s.median_ns),
        )
        for name in order
        for s in one.slices[name]
    )
    return ui.Table("Slices of the other parameters", columns, rows)
