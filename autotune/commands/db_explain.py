"""`autotune db explain` and `schema`: say where a configuration comes from, and what the tables mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kernel_templates.device import Device
    from tuning_db import TuningDB
    from tuning_db.explain import Explanation


@click.command()
@click.argument("problem")
@options.device_option
@options.threads_option
@options.db_option
@options.json_option
def explain(problem: str, device: str, db_path: Path | None, as_json: bool) -> None:
    """Say why a problem runs with its configuration, and what was second best.

    PROBLEM is a key as `autotune db list` prints it, or the beginning of just one. What is said is what a model on
    this machine would run with. A miss names the part of the key that differs: driver, compiler, template version,
    chip or shape.

    \b
    Example:
      autotune db explain head:vocab=49152 --device cuda:0
    """
    here = options.detect(device)
    with options.open_database(db_path) as db:
        found = _explanation(db, here, problem)
    if as_json:
        output.print_json(_document(found))
        return
    for sentence in found.sentences():
        output.line(sentence)


def _explanation(db: "TuningDB", here: "Device", beginning: str) -> "Explanation":
    from kernel_templates import given_problem, proof_record, registry
    from tuning_db import explain as explaining

    known = sorted({*explaining.known_problems(db, here), *(run.run.problem for run in db.runs())})
    matching = [beginning] if beginning in known else [key for key in known if key.startswith(beginning)]
    if len(matching) > 1:
        raise UserError(
            f"{len(matching)} problems begin with {beginning!r}, {matching[0]} and {matching[1]} among them; "
            "give more of the key"
        )
    key = matching[0] if matching else beginning
    try:
        problem = given_problem.parse(key)
    except ValueError as error:
        raise UserError(f"{beginning!r} is no problem ({error}); autotune db list shows what there is") from None

    def proved(config: "Mapping[str, Any]") -> "datetime | None":
        completed = registry.space(problem, here).completed(config)  # as it was proved
        verdict = proof_record.known(problem, completed, here)
        return None if verdict is None or verdict.wrong else verdict.when

    return explaining.explain(db, here, key, problem.template_version, proved)


def _document(found: "Explanation") -> dict[str, Any]:
    winner = found.answer.winner
    return {
        "problem": found.problem,
        "source": found.answer.source.name.lower(),
        "detail": found.answer.detail,
        "config": dict(winner.config) if winner else None,
        "median_ns": winner.measurement.median_ns if winner else None,
        "default_ns": winner.default_ns if winner else None,
        "proved": found.proved.isoformat() if found.proved else None,
        "refused": [dict(config) for config in found.refused],
        "trials": found.trials,
        "failed": found.failed,
        "second": {"config": dict(found.second[0]), "median_ns": found.second[1]} if found.second else None,
        "sentences": found.sentences(),
    }


@click.command()
@click.argument("table", required=False)
@options.json_option
def schema(table: str | None, as_json: bool) -> None:
    """Describe every table and column of the database.

    \b
    Example:
      autotune db schema winners
    """
    from tuning_db.schema import TABLES

    if table is not None and table not in TABLES:
        raise UserError(f"no table is called {table!r}; there are {', '.join(TABLES)}")
    shown = TABLES if table is None else {table: TABLES[table]}
    if as_json:
        output.print_json({name: {"holds": holds, "columns": columns} for name, (holds, columns) in shown.items()})
        return
    for number, (name, (holds, columns)) in enumerate(shown.items()):
        click.echo(("\n" if number else "") + f"{name}\n  {holds}")
        width = max(map(len, columns))
        for column, meaning in columns.items():
            click.echo(f"    {column:<{width}}  {meaning}")


COMMANDS = (explain, schema)
