"""`autotune export`: writes a run, or the space it searched, in a format that other auto-tuners read."""

import json
from pathlib import Path

import click

from autotune import UserError
from autotune.commands import options


@click.command()
@click.option(
    "--format", "kind", type=click.Choice(("t4", "t1")), default="t4", show_default=True,
    help="t4: what was measured; t1: the space, parameters and conditions.",
)  # fmt: skip
@click.option(
    "--run", "number", type=int, help="Number of a run, as autotune db list --runs shows it.  [default: the last]"
)
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write to a file, gzipped if its name ends in .gz.  [default: stdout]",
)  # fmt: skip
@options.db_option
def export(kind: str, number: int | None, out: Path | None, db_path: Path | None) -> None:
    """Write a tuning run in a format that other auto-tuners read.

    T4 has the results of a run, T1 the space that it searched: formats of the auto-tuning community. What is written
    was checked against the format's schema first; autotune import reads T4 again, without loss.

    \b
    Example:
      autotune export --format t4 --run 3 --out matvec.json.gz
    """
    options.writable(out, "--out")
    from autotune.importers import files, registry

    with options.open_database(db_path) as db:
        runs = [run for run in db.runs() if number is None or run.id == number]
        if not runs:
            raise UserError(
                "there is no run to export; tune a model first"
                if number is None
                else f"there is no run {number}; autotune db list --runs shows them"
            )
        stored = runs[-1]
        document = registry.EXPORTERS[kind].document(stored, db.trials(stored.id))
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    if out is None:
        click.echo(text)
    else:
        files.write(out, text + "\n")
