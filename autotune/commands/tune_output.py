"""What `autotune tune` prints: rows for table and JSON from results, or from the database after an interrupt."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from autotune.benchmarking.speedup import NOT_NOW
from autotune.commands import output

if TYPE_CHECKING:
    from kernel_templates.device import Device
    from kernel_templates.problem import Problem
    from tuning_db import TuningDB


_ABOVE = (
    "* above 100%: part of it came from a cache, or other work held the memory back while its bandwidth was measured"
)
_TUNED = ("10–90%", "speed-up", "GB/s", output.SHARE, "trials", "failed")
_ENERGY = ("default µJ", "tuned µJ")


def row(result: Any) -> dict[str, Any]:
    """One `Tuned` for table and JSON."""
    return {
        "problem": result.problem.key,
        "count": result.count,
        "config": dict(result.config),
        "default_ns": result.default_ns,
        "best_ns": result.best_ns,
        "default_gb_s": result.default_gb_s,
        **_outcome(result),
    }


def _outcome(result: Any) -> dict[str, Any]:
    """The fields that rows of problems alone and of layers have in common."""
    return {
        "gb_s": result.gb_s, "share": result.share, "trials": result.trials, "failed": result.failed,
        "source": result.source, "kept": result.kept, "reason": result.reason,
        "read_gb_s": result.read_bytes_s / 1e9, "best_range_ns": [result.best.q10_ns, result.best.q90_ns],
        "default_range_ns": None if result.default is None else [result.default.q10_ns, result.default.q90_ns],
        "least_speedup": result.least_speedup, "measurable": result.measurable,
        "best_uj": result.best_uj, "default_uj": result.default_uj,
    }  # fmt: skip


def kept(db: "TuningDB", device: "Device", problems: "Mapping[Problem, int]") -> list[dict[str, Any]]:
    """What the database holds for this model after an interrupt: this run's winners and earlier ones."""
    from kernel_templates import registry
    from tuning_db.records import searched

    rows = []
    winners = {(w.winner.problem, w.winner.template_version): w.winner for w in db.winners(device)}
    for problem, count in problems.items():
        winner = winners.get((problem.key, problem.template_version))
        if winner is None:
            continue
        size, best, default = (
            registry.get(problem.op).work(problem).bytes,
            winner.measurement.median_ns,
            winner.default_ns,
        )
        rows.append(
            {
                "problem": problem.key,
                "count": count,
                "config": dict(winner.config),
                "default_ns": default,
                "best_ns": best,
                "default_gb_s": size / default if default else None,
                "gb_s": size / best,
                "share": None,
                "trials": searched(db.past_trials(device, problem.key, problem.template_version)),
                "failed": None,
                "source": "kept",
                "kept": "",
                "reason": "",
                "best_uj": winner.measurement.energy_uj,
                "default_uj": None,
                "read_gb_s": None,
                "best_range_ns": [winner.measurement.q10_ns, winner.measurement.q90_ns],
                "default_range_ns": None,
                "least_speedup": None,
                "measurable": None,
            }
        )
    return rows


def layer_row(result: Any) -> dict[str, Any]:
    """One `Tuned` of a layer for table and JSON."""
    return {
        "problem": result.problem.key,
        "config": dict(result.config),
        "default_ns": result.default_ns,
        "isolated_ns": result.isolated_ns,
        "best_ns": result.best_ns,
        **_outcome(result),
    }


def show(
    rows: list[dict[str, Any]], in_context: list[dict[str, Any]], many: list[dict[str, Any]], interrupted: bool
) -> None:
    """The tables and what they come to."""
    every = (*rows, *in_context, *many)
    if not every:
        output.note("nothing has a winner yet")
        return
    title = "Kept so far" if interrupted else "Tuned"
    if rows:
        _show_alone(f"{title}, each alone" if in_context else title, rows)
    if in_context:
        _show_in_context(f"{title}, in context", in_context)
    if many:
        _show_many(f"{title}, many tokens at once", many)
    if any(_is_above(row) for row in (*rows, *in_context)):
        click.echo(_ABOVE)
    for row in every:
        if row["kept"] or _is_slower(row):
            click.echo(f"{row['problem']}: {row['reason']}")


def _show_alone(title: str, rows: list[dict[str, Any]]) -> None:
    energy = any(row["best_uj"] is not None for row in rows)
    numeric = ("count", "default µs", "tuned µs", *_TUNED, *(_ENERGY if energy else ()))
    lines = [
        (
            row["problem"], str(row["count"]), output.micros(row["default_ns"]), *_common(row, row["default_ns"]),
            *(_energies(row) if energy else ()),
        )
        for row in rows
    ]  # fmt: skip
    output.print_table(title, ("problem", *numeric), lines, numeric)
    known = [row for row in rows if _is_time(row["default_ns"])]
    if known:
        mean = _mean_speedup(known)
        before, after = (sum(row[name] * row["count"] for row in known) for name in ("default_ns", "best_ns"))
        click.echo(
            f"geometric mean speed-up {mean:.2f}×; kernels of one token {before / 1e6:.2f} ms → {after / 1e6:.2f} ms"
        )


def _show_in_context(title: str, rows: list[dict[str, Any]]) -> None:
    energy = any(row["best_uj"] is not None for row in rows)
    numeric = ("default µs", "alone µs", "tuned µs", *_TUNED, *(_ENERGY if energy else ()))
    lines = [
        (
            row["problem"], output.micros(row["default_ns"]), output.micros(row.get("isolated_ns")),
            *_common(row, row["default_ns"]), *(_energies(row) if energy else ()),
        )
        for row in rows
    ]  # fmt: skip
    output.print_table(title, ("layer", *numeric), lines, numeric)
    known = [row for row in rows if _is_time(row.get("isolated_ns"))]
    if known:
        mean = math.exp(sum(math.log(row["isolated_ns"] / row["best_ns"]) for row in known) / len(known))
        click.echo(f"in context {mean:.2f}× the speed of what won alone (geometric mean)")


def _show_many(title: str, rows: list[dict[str, Any]]) -> None:
    """Problems of passes: they compute as much as they read, so what is shown is both rates."""
    numeric = ("count", "default µs", "tuned µs", *_TUNED[:3], "TFLOP/s", *_TUNED[-2:])
    lines = [
        (
            row["problem"], str(row["count"]), output.micros(row["default_ns"]),
            *_common(row, row["default_ns"])[:4], output.number(_tflop_s(row), 2), *_common(row, None)[-2:],
        )
        for row in rows
    ]  # fmt: skip
    output.print_table(title, ("problem", *numeric), lines, numeric)
    known = [row for row in rows if _is_time(row["default_ns"])]
    if known:
        mean = _mean_speedup(known)
        click.echo(f"geometric mean speed-up {mean:.2f}×")


def _tflop_s(row: dict[str, Any]) -> float:
    """10^12 multiplications and additions a second."""
    from kernel_templates import registry

    problem = registry.parse_problem(row["problem"])
    return registry.get(problem.op).work(problem).ops / row["best_ns"] / 1e3


def _common(row: dict[str, Any], default_ns: float | None) -> tuple[str, ...]:
    return (
        output.micros(row["best_ns"]),
        _range(row["best_range_ns"]),
        _speedup(row, default_ns),
        output.number(row["gb_s"]),
        output.percent(row["share"]) + ("*" if _is_above(row) else ""),
        str(row["trials"]),
        "–" if row["failed"] is None else str(row["failed"]),
    )


def _range(nanoseconds: list[float]) -> str:
    return "–".join(map(output.micros, nanoseconds))


def _speedup(row: dict[str, Any], default_ns: float | None) -> str:
    if row["kept"] == "default":
        return "default kept"
    return NOT_NOW if row["measurable"] is False else output.ratio(default_ns, row["best_ns"])


def _mean_speedup(rows: list[dict[str, Any]]) -> float:
    """The geometric mean; what is not measurable now counts as none."""
    ratios = [1.0 if row["measurable"] is False else row["default_ns"] / row["best_ns"] for row in rows]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _energies(row: dict[str, Any]) -> tuple[str, str]:
    return output.number(row["default_uj"]), output.number(row["best_uj"])


def _is_above(row: dict[str, Any]) -> bool:
    return row["share"] is not None and row["share"] > 1.0


def _is_slower(row: dict[str, Any]) -> bool:
    """Whether the winner took longer than the default; the reason says why it won all the same."""
    return bool(row["reason"]) and _is_time(row["default_ns"]) and row["best_ns"] > row["default_ns"]


def _is_time(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
