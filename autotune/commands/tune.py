"""`autotune tune`: search the kernels of one model on this machine, and keep the winners."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.commands import options, output
from autotune.commands.tune_progress import TuneProgress
from autotune.errors import UserError
from autotune.search import SAMPLERS

if TYPE_CHECKING:
    from kernel_templates.device import Device
    from kernel_templates.problem import Problem
    from tuning_db import TuningDB


@click.command()
@options.model_argument
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="Configurations to try per problem, those of earlier runs included.",
)
@click.option(
    "--budget",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=75.0,
    show_default=True,
    help="Time for all problems together; 0 sets no limit.",
)
@click.option("--op", "ops", metavar="NAME", multiple=True, help="Tune this operation only; may be given again.")
@click.option(
    "--sampler", type=click.Choice(SAMPLERS), default=SAMPLERS[0], show_default=True, help="How to choose what to try."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the sampler.")
@options.device_option
@options.db_option
@options.json_option
def tune(
    model: Path, trials: int, budget: float, ops: tuple[str, ...], sampler: str, seed: int, device: str,
    db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Tune a model's kernels for this machine.

    Every problem is tuned once, however many layers share it. Each trial is recorded as it is made: Ctrl-C keeps what
    was found, and the next run goes on from there.

    \b
    Example:
      autotune tune model.gguf
      autotune tune model.gguf --op matvec --op ffn --budget 300 --trials 200
    """
    here = options.detect(device)
    problems = _problems(model, ops)
    from autotune import tuner

    with options.open_database(db_path, readonly=False) as db:
        rows, interrupted = [], False
        try:
            with TuneProgress(trials) as progress:
                tuned = tuner.tune(
                    problems, db, trials=trials, budget_s=budget or None, sampler=sampler, seed=seed,
                    report=progress.report,
                )  # fmt: skip
            rows = [_row(result) for result in tuned]
        except KeyboardInterrupt:
            interrupted = True
            rows = _kept(db, here, problems)
        except tuner.TuneError as error:
            raise UserError(str(error)) from error
        path = db.path
    if as_json:
        document = {
            "model": str(model),
            "device": output.device_document(here),
            "database": str(path),
            "interrupted": interrupted,
            "tuned": rows,
        }
        output.print_json(document)
    else:
        _print(rows, interrupted)
        output.note(f"{len(rows)} of {len(problems)} problems have a winner in {path}")
    if interrupted:
        raise KeyboardInterrupt


def _problems(path: Path, ops: tuple[str, ...]) -> "Mapping[Problem, int]":
    """What the model needs, or the part of it that `--op` names. Raises UserError for an unknown operation."""
    from kernel_templates import registry
    from model.config import ModelConfig
    from model.gguf_file import open_gguf
    from model.problems import model_problems

    for op in ops:
        if op not in registry.OPERATIONS:
            raise UserError(f"--op: no operation is called {op!r}; there are {', '.join(registry.OPERATIONS)}")
    file = open_gguf(path)
    found = model_problems(ModelConfig.from_gguf(file), file)
    return {problem: count for problem, count in found.items() if not ops or problem.op in ops}


def _row(result: Any) -> dict[str, Any]:
    """One `Tuned` for table and JSON."""
    return {
        "problem": result.problem.key,
        "count": result.count,
        "config": dict(result.config),
        "default_ns": result.default_ns,
        "best_ns": result.best_ns,
        "default_gb_s": result.default_gb_s,
        "gb_s": result.gb_s,
        "share": result.share,
        "trials": result.trials,
        "failed": result.failed,
        "source": result.source,
    }


def _kept(db: "TuningDB", device: "Device", problems: "Mapping[Problem, int]") -> list[dict[str, Any]]:
    """What the database holds for this model after an interrupt: this run's winners and earlier ones."""
    from kernel_templates import registry

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
                "trials": len(db.past_trials(device, problem.key, problem.template_version)),
                "failed": None,
                "source": "kept",
            }
        )
    return rows


def _print(rows: list[dict[str, Any]], interrupted: bool) -> None:
    if not rows:
        output.note("nothing has a winner yet")
        return
    numeric = ("count", "default µs", "tuned µs", "speed-up", "GB/s", "of read", "trials", "failed")
    lines = [
        (
            row["problem"],
            str(row["count"]),
            output.micros(row["default_ns"]),
            output.micros(row["best_ns"]),
            output.ratio(row["default_ns"], row["best_ns"]),
            output.number(row["gb_s"]),
            output.percent(row["share"]),
            str(row["trials"]),
            "–" if row["failed"] is None else str(row["failed"]),
        )
        for row in rows
    ]
    output.print_table("Kept so far" if interrupted else "Tuned", ("problem", *numeric), lines, numeric)
    known = [row for row in rows if row["default_ns"]]
    if known:
        mean = math.exp(sum(math.log(row["default_ns"] / row["best_ns"]) for row in known) / len(known))
        before, after = (sum(row[name] * row["count"] for row in known) for name in ("default_ns", "best_ns"))
        click.echo(
            f"geometric mean speed-up {mean:.2f}×; kernels of one token {before / 1e6:.2f} ms → {after / 1e6:.2f} ms"
        )
