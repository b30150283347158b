"""`autotune db export`, `import`, `merge`, `prune`, `repair` and `vacuum`: move winners, and mend the file."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from tuning_db import TuningDB
    from tuning_db.merge import Added

MAGIC = b"SQLite format 3\0"


@click.command("export")
@click.option("--winners", is_flag=True, help="Export current winners and their devices only, without runs and trials.")
@click.option("--chip", help="Export only devices whose name contains this.")
@click.option("--sqlite", is_flag=True, help="Write an SQLite file, whole, instead of JSON lines; needs --output.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, which must not exist yet.  [default: stdout]",
)  # fmt: skip
@options.db_option
def export(winners: bool, chip: str | None, sqlite: bool, target: Path | None, db_path: Path | None) -> None:
    """Write what the database holds as JSON lines, or as an SQLite file.

    Lines are sorted, so that the same knowledge is the same text. `autotune db import` reads them.

    \b
    Example:
      autotune db export --winners --chip H100 -o h100.jsonl
      autotune db export --sqlite -o backup.db
    """
    if sqlite and (target is None or winners or chip):
        raise UserError("--sqlite writes the whole database to a file: give --output, and neither --winners nor --chip")
    if target is not None and target.exists():
        raise UserError(f"--output: {target} is there already; name another file, or move it away")
    with options.open_database(db_path) as db:
        if sqlite:
            assert target is not None
            db.copy_to(target)
            return
        text = "".join(f"{line}\n" for line in _lines(db, winners, chip))
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")


def _lines(db: "TuningDB", winners: bool, chip: str | None) -> Iterator[str]:
    from tuning_db import jsonl, stored_records

    found = db.exported(winners_only=winners)
    if chip is not None:
        found = stored_records.of_chip(found, chip)
        if not any(fact["kind"] == "device" for fact in found):
            raise UserError(f"--chip: no device has {chip!r} in its name; autotune db list shows which there are")
    return jsonl.write(found)


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.db_option
@options.json_option
def import_(files: tuple[Path, ...], db_path: Path | None, as_json: bool) -> None:
    """Add an export to the database.

    FILE is JSON lines of `autotune db export`, or "-" for stdin. A line that makes no sense is left out, the others are
    added, and the exit code is 2. Adding a file twice is like adding it once; conflicts are resolved as by `autotune db
    merge`.

    \b
    Example:
      autotune db import h100.jsonl
    """
    _add(files, db_path, as_json)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.db_option
@options.json_option
def merge(files: tuple[Path, ...], db_path: Path | None, as_json: bool) -> None:
    """Merge other people's databases into this one, which is made if missing.

    Nothing is lost and nothing counted twice, in whatever order and however often files are merged. Where two people
    have tuned one problem on the same device, the verified winner with the better time is used, and that is shown; what
    this machine has measured itself keeps its place. A row that makes no sense is left out, the others are added, and
    the exit code is 2.

    \b
    Example:
      autotune db merge ann.db ben.db --db ours.db
    """
    _add(files, db_path, as_json)


@click.command()
@click.option("--dry-run", is_flag=True, help="Count what would be removed; remove nothing.")
@options.db_option
@options.json_option
def prune(dry_run: bool, db_path: Path | None, as_json: bool) -> None:
    """Delete what no current winner came from: old winners, runs and trials.

    Current winners stay with the runs that found them. What is deleted will not be remembered by later searches, and
    comes back when a database that has it is merged. `autotune db vacuum` then makes the file smaller.

    \b
    Example:
      autotune db prune --dry-run
    """
    with options.open_database(_there(db_path), readonly=False) as db:
        counts = db.prune(keep=dry_run)
    if as_json:
        output.print_json({"deleted": counts, "dry_run": dry_run})
    else:
        gone = ", ".join(f"{count} {name}" for name, count in counts.items())
        click.echo(f"{'would delete' if dry_run else 'deleted'} {gone}")


@click.command()
@options.db_option
@options.json_option
def repair(db_path: Path | None, as_json: bool) -> None:
    """Remove rows that make no sense, and name each.

    Other programs can write into a database. Every command leaves out rows that make no sense; this one deletes them,
    with what belongs to them. Nothing else is changed: `autotune db export --sqlite -o backup.db` keeps a copy.

    \b
    Example:
      autotune db repair
    """
    from dataclasses import asdict

    with options.open_database(_there(db_path), readonly=False) as db:
        removed = db.repair()
    if as_json:
        output.print_json({"removed": [asdict(one) for one in removed]})
        return
    for one in removed:
        output.line(f"{one.table} {one.number} ({one.name}): {one.reason}")
    output.line(f"removed {output.counted(len(removed), 'row')} that made no sense")


@click.command()
@options.db_option
@options.json_option
def vacuum(db_path: Path | None, as_json: bool) -> None:
    """Give the space of deleted rows back to the disk.

    \b
    Example:
      autotune db vacuum
    """
    with options.open_database(_there(db_path), readonly=False) as db:
        before, after = db.vacuum()
    if as_json:
        output.print_json({"bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{before:,} bytes → {after:,} bytes")


def _there(path: Path | None) -> Path | None:
    """The error for what makes no sense in a file that would only be made now."""
    with options.open_database(path) as db:
        if not db.info()["exists"]:
            raise UserError(f"there is no tuning database {db.path} yet; autotune tune MODEL makes it")
    return path


def _add(files: tuple[Path, ...], db_path: Path | None, as_json: bool) -> None:
    everything = [(str(path), *_records(path)) for path in files]  # before the target is touched
    results: dict[str, Added] = {}
    with options.open_database(db_path, readonly=False) as db:
        for name, found, left_out in everything:
            results[name] = db.add(found)
            results[name].left_out[:0] = left_out
        path = db.path
    if as_json:
        output.print_json({"database": str(path), "files": {name: _document(a) for name, a in results.items()}})
    for name, added in results.items() if not as_json else ():
        news = ", ".join(output.counted(count, table[:-1]) for table, count in added.rows.items())
        output.line(f"{name}: new {news}")
        for c in added.conflicts:
            whose, other = ("ours", "theirs") if c.kept_ours else ("theirs", "ours")
            output.line(
                f"  {c.problem} on {c.chip}: {whose} is used, {output.micros(c.kept_ns)} µs; {other} took "
                f"{output.micros(c.other_ns)} µs"
            )
    refuse_left_out({name: added.left_out for name, added in results.items()})


def refuse_left_out(left_out: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where records of a source were left out: the others are in the database by now."""
    wrong = {name: reasons for name, reasons in left_out.items() if reasons}
    if wrong:
        name, reasons = next(iter(wrong.items()))
        others = f", and of {output.counted(len(wrong) - 1, 'other file')}" if len(wrong) > 1 else ""
        raise UserError(
            f"{name}: left out {output.counted(len(reasons), 'record')} that cannot be, the first: {reasons[0]}"
            f"{others}; all others were added"
        )


def _records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What a file holds, and of each record that makes no sense the reason. Raises UserError and DatabaseError."""
    from tuning_db import jsonl

    left_out: list[str] = []
    if str(path) != "-":
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) == MAGIC:
                    with options.open_database(path) as db:
                        return db.exported(left_out=left_out), left_out
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path} is not there; name a database or an export of one") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is neither a tuning database nor an export of one") from None
    else:
        text = sys.stdin.read()
    try:
        return list(jsonl.read_text(text, str(path), left_out)), left_out
    except jsonl.BadLine as error:
        raise UserError(f"{error}; nothing was added") from None


def _document(added: "Added") -> dict[str, Any]:
    conflicts = [
        {"chip": c.chip, "problem": c.problem, "kept_ns": c.kept_ns, "other_ns": c.other_ns, "kept_ours": c.kept_ours}
        for c in added.conflicts
    ]
    return {"new": dict(added.rows), "conflicts": conflicts, "left_out": added.left_out}


COMMANDS = (export, import_, merge, prune, repair, vacuum)
