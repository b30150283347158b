"""`autotune pull`: copies the winners of a shared server into the database."""

from pathlib import Path

import click

from autotune import UserError
from autotune.commands import options, output


@click.command()
@options.storage_option(required=True)
@options.db_option
@options.json_option
def pull(storage: str, db_path: Path | None, as_json: bool) -> None:
    """Bring the winners of a shared server into the database.

    Each is a winner that a worker has verified and compared with its rivals. Pulling twice adds nothing twice;
    conflicts are resolved as by `autotune db merge`.

    \b
    Example:
      autotune pull --storage postgresql://tuner:PASSWORD@server/tuning
    """
    from autotune.tuning import shared_studies, storage_url

    with shared_studies.opened(storage) as server, options.open_database(db_path, readonly=False) as db:
        try:
            added = shared_studies.pull(server, db)
        except ValueError as error:
            raise UserError(f"{error}; nothing was added") from None
        where, path = storage_url.shown(server.url), db.path
    if as_json:
        output.print_json({"storage": where, "database": str(path), "new": dict(added.rows)})
        return
    click.echo(f"{where}: new {output.counted(added.rows['winners'], 'winner')} in {path}")
    for c in added.conflicts:
        whose = "ours" if c.kept_ours else "theirs"
        kept, other = output.micros(c.kept_ns), output.micros(c.other_ns)
        click.echo(f"  {c.problem} on {c.chip}: {whose} is used, {kept} µs; the other took {other} µs")
