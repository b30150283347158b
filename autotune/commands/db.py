"""`autotune db`: shows what the tuning database holds; `db_share` has the commands that write."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import db_explain, db_share, options, output

if TYPE_CHECKING:
    from tuning_db.records import StoredRun, StoredWinner


@click.group(invoke_without_command=True, no_args_is_help=False)
@click.pass_context
def db(ctx: click.Context) -> None:
    """Look into the tuning database, share it, keep it small.

    \b
    Example:
      autotune db list
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (*db_explain.COMMANDS, *db_share.COMMANDS):
    db.add_command(command)


@db.command()
@options.db_option
@options.json_option
def info(db_path: Path | None, as_json: bool) -> None:
    """Show where the database is, its schema version and how much it holds.

    \b
    Example:
      autotune db info
    """
    with options.open_database(db_path) as database:
        facts = database.info()
    if as_json:
        output.print_json(facts)
        return
    shown = {name.replace("_", " "): str(value) for name, value in facts.items() if name != "exists"}
    if not facts["exists"]:
        shown["path"] += " (not there yet)"
    output.print_facts(shown)


@db.command("path")
@options.db_option
@options.json_option
def path_(db_path: Path | None, as_json: bool) -> None:
    """Print the path of the tuning database, for programs that want a file.

    \b
    Example:
      autotune db path
    """
    from tuning_db import default_path

    path = (default_path() if db_path is None else db_path).absolute()
    if as_json:
        output.print_json({"path": str(path), "exists": path.exists()})
        return
    output.line(str(path))


@db.command("list")
@click.option("--runs", is_flag=True, help="List tuning runs instead of winners.")
@options.db_option
@options.json_option
def list_(runs: bool, db_path: Path | None, as_json: bool) -> None:
    """List the winners of every device, or all tuning runs.

    \b
    Example:
      autotune db list --runs
    """
    with options.open_database(db_path) as database:
        stored = database.runs()
        winners = [] if runs else database.winners()
    if as_json:
        output.print_json({"runs": [_run(r) for r in stored]} if runs else {"winners": _winners(winners, stored)})
    elif runs:
        rows = [
            (
                str(r.id), r.run.problem, r.device.label, r.run.sampler, str(r.trials), r.status.value,
                (r.began_at or "unknown")[:16].replace("T", " "),
            )
            for r in stored
        ]  # fmt: skip
        output.print_table(
            output.counted(len(rows), "run"),
            ("run", "problem", "device", "sampler", "trials", "status", "started (UTC)"),
            rows,
        )
    else:
        _print_winners(output.counted(len(winners), "winner"), winners, stored)


@db.command()
@click.argument("problem")
@options.db_option
@options.json_option
def best(problem: str, db_path: Path | None, as_json: bool) -> None:
    """Show the winners of one problem on every device, fastest first.

    PROBLEM is a key as `autotune db list` prints it, or the beginning of just one.

    \b
    Example:
      autotune db best matvec:rows=576
    """
    with options.open_database(db_path) as database:
        key = _only(problem, {w.winner.problem for w in database.winners()}, "winner")
        winners, stored = database.best(key), database.runs()
    if as_json:
        output.print_json({"problem": key, "winners": _winners(winners, stored)})
    else:
        _print_winners(key, winners, stored)


@db.command()
@click.argument("problem")
@click.option(
    "-o", "--output", "target", metavar="FILE", type=click.Path(path_type=Path),
    help="Write an SVG file instead of drawing on the terminal.",
)  # fmt: skip
@options.db_option
def plot(problem: str, target: Path | None, db_path: Path | None) -> None:
    """Draw how the latest search for a problem went: its trials and the best so far.

    PROBLEM is a key as `autotune db list` prints it, or the beginning of just one.

    \b
    Example:
      autotune db plot matvec:rows=576
      autotune db plot matvec:rows=576 -o search.svg
    """
    options.writable(target, "-o")
    from autotune.dashboard import plot
    from autotune.dashboard.collect import read_database
    from autotune.dashboard.pages.run import progress
    from autotune.dashboard.problem_names import short_names

    database = read_database(db_path)
    key = _only(problem, {run.stored.run.problem for run in database.runs if run.working}, "trial that worked")
    run = [run for run in database.runs if run.working and run.stored.run.problem == key][-1]
    name = short_names(one.stored.run.problem for one in database.runs)[key]
    chart = progress(run, f"{name} on {run.stored.device.label}, run {run.stored.id}")
    if target is not None:
        plot.to_file([chart], target)
        return
    size = shutil.get_terminal_size((100, 30))
    click.echo(plot.on_terminal(chart, min(size.columns, 160), min(size.lines - 2, 32), sys.stdout.isatty()))


def _only(beginning: str, known: set[str], what: str) -> str:
    """The one key that is or begins with this. Raises UserError."""
    matching = [beginning] if beginning in known else sorted(key for key in known if key.startswith(beginning))
    if not matching:
        raise UserError(f"no {what} of a problem that begins with {beginning!r}; autotune db list shows what there is")
    if len(matching) > 1:
        raise UserError(
            f"{len(matching)} problems begin with {beginning!r}, {matching[0]} and {matching[1]} among them; "
            "give more of the key"
        )
    return matching[0]


def _print_winners(title: str, winners: "list[StoredWinner]", runs: "list[StoredRun]") -> None:
    rows = [
        (
            row["problem"], stored.device.label, output.micros(row["median_ns"]),
            output.ratio(row["default_ns"], row["median_ns"]), output.number(row["gb_s"]),
            output.settings(row["config"]), row["created_at"][:16].replace("T", " "),
        )
        for stored, row in zip(winners, _winners(winners, runs), strict=True)
    ]  # fmt: skip
    numeric = ("µs", "speed-up", "GB/s")
    output.print_table(title, ("problem", "device", *numeric, "configuration", "when (UTC)"), rows, numeric)


def _winners(winners: "list[StoredWinner]", runs: "list[StoredRun]") -> list[dict[str, Any]]:
    """Winners for table and JSON. The bytes behind GB/s are those that the winner's run counted."""
    size = {run.id: run.run.work_bytes for run in runs}
    rows = []
    for stored in winners:
        winner, measured = stored.winner, stored.winner.measurement
        moved = size.get(stored.run_id) if stored.run_id is not None else None
        rows.append(
            {
                "problem": winner.problem,
                "template_version": winner.template_version,
                "device": output.device_document(stored.device),
                "config": dict(winner.config),
                "q10_ns": measured.q10_ns,
                "median_ns": measured.median_ns,
                "q90_ns": measured.q90_ns,
                "samples": measured.samples,
                "default_ns": winner.default_ns,
                "gb_s": moved / measured.median_ns if moved else None,
                "error": winner.error,
                "tolerance": winner.tolerance,
                "run_id": stored.run_id,
                "created_at": stored.created_at,
            }
        )
    return rows


def _run(stored: "StoredRun") -> dict[str, Any]:
    run = stored.run
    return {
        "id": stored.id,
        "problem": run.problem,
        "template_version": run.template_version,
        "device": output.device_document(stored.device),
        "sampler": run.sampler,
        "seed": run.seed,
        "space_size": run.space_size,
        "trials": stored.trials,
        "status": stored.status.value,
        "started_at": stored.began_at,
        "finished_at": stored.finished_at if stored.began_at else None,
        "versions": dict(run.versions),
    }
