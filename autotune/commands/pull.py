"""`autotune pull`: copies the winners of a shared server into the database."""

from pathlib import Path

import click

from autotune.commands import db_share, options, output


@click.command()
@options.storage_option(required=True)
@options.db_option
@options.json_option
def pull(storage: str, db_path: Path | None, as_json: bool) -> None:
    """Bring the winners of a shared server into the database.

    Each is a winner that a worker has verified and compared with its rivals. Pulling twice adds nothing twice;
    conflicts are resolved, and what makes no sense is left out, as by `autotune db merge`.

    \b
    Example:
      autotune pull --storage postgresql://tuner:PASSWORD@server/tuning
    """
    from autotune.tuning import shared_studies, storage_url

    with shared_studies.opened(storage) as server, options.open_database(db_path, readonly=False) as db:
        added = shared_studies.pull(server, db)
        where, path = storage_url.shown(server.url), db.path
    if as_json:
        document = {"storage": where, "database": str(path), "new": dict(added.rows), "left_out": added.left_out}
        output.print_json(document)
    else:
        output.line(f"{where}: new {output.counted(added.rows['winners'], 'winner')} in {path}")
    for c in added.conflicts if not as_json else ():
        whose = "ours" if c.kept_ours else "theirs"
        kept, other = output.micros(c.kept_ns), output.micros(c.other_ns)
        output.line(f"  {c.problem} on {c.chip}: {whose} is used, {kept} µs; the other took {other} µs")
    db_share.refuse_left_out({where: added.left_out})
