"""`autotune import`: reads files of other tools into the tuning database."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output
from kernel_templates import collector

if TYPE_CHECKING:
    from autotune.importers.importer import Importer
    from autotune.importers.tuning_results import ResultsSummary
    from autotune.profiling.store_profile import ProfileSummary
    from tuning_db import TuningDB


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--decimal",
    type=click.Choice(["comma", "point"]),
    help="What separates decimals in CSV files. Needed only where a file does not tell: 1.234 may be 1234.",
)
@options.db_option
@options.json_option
def import_(files: tuple[Path, ...], decimal: str | None, db_path: Path | None, as_json: bool) -> None:
    """Read files of other tools into the tuning database.

    Recognized by their content: reports of Nsight Compute (.ncu-rep; needs NVIDIA's package, ./scripts/setup_env
    nsight) and its CSV (pages raw and details, --metrics, --print-summary), SQLite exports of Nsight Systems and the
    CSV of nsys stats, logs of Helion's autotuner; kernels of ours are joined to their problem and configuration. And
    results of other auto-tuners: T4 (autotune export writes it), caches of Kernel Tuner, results of the Kernel Tuning
    Toolkit, sessions of Triton's autotuner in tritonparse's logs; each becomes a run of the device that it names. Files
    packed with gzip or xz are read too.

    Each file is imported or refused by itself: with one refused, the exit code is 2, and the others are kept.

    \b
    Example:
      autotune import report.ncu-rep
      autotune import trace.sqlite kernels.csv gemm_A100_T4.json.gz
    """
    from dataclasses import asdict

    from autotune.importers import registry
    from autotune.importers.files import NO_END

    done: list[ProfileSummary | ResultsSummary] = []
    refused: dict[Path, str] = {}
    with _Database(db_path) as database:
        for file in files:
            try:
                done += store(registry.importer_of(file), file, database.opened, decimal)
            except UserError as error:
                if len(files) == 1:
                    raise
                refused[file] = str(error)
    if as_json:
        rows = [{"file": file.name, "reason": reason} for file, reason in refused.items()]
        output.print_json({"imported": [asdict(summary) for summary in done], "refused": rows})
    else:
        for summary in done:
            output.line(f"{summary.file}: {summary.line}")
    for summary in () if as_json else done:
        if summary.note and NO_END not in summary.note:  # that is kept for the page of provenance
            output.note(f"{summary.file}: {summary.note}")
    for reason in refused.values():
        output.note(f"refused: {reason}")
    if refused:
        raise UserError(f"{len(refused)} of {len(files)} files were refused; the others are imported")


class _Database:
    """The database, opened when there is something to keep. One that is made here and stays empty is removed again:
    files that are refused leave nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._db: TuningDB | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "_Database":
        return self

    def __exit__(self, *_: object) -> None:
        if self._db is None:
            return
        from tuning_db import profiles

        empty = self._made and not profiles.listed(self._db) and not self._db.runs()
        self._db.close()
        if empty:
            database, *folders = self._made
            database.unlink(missing_ok=True)
            for folder in folders:
                folder.rmdir()

    def opened(self) -> "TuningDB":
        if self._db is None:
            from tuning_db.location import default_path

            path = (self._path or default_path()).expanduser()
            self._made = [each for each in (path, *path.parents) if not each.exists()]
            self._db = options.open_database(self._path, readonly=False)
        return self._db


def store(
    importer: "Importer", path: Path, opened: "Callable[[], TuningDB]", decimal: str | None = None
) -> "list[ProfileSummary | ResultsSummary]":
    """Read a file and store what is in it; opened: gives the database, asked for when the file has been read; decimal:
    "comma" or "point", None to find out. Raises UserError."""
    from autotune.importers import tuning_results
    from autotune.importers.files import bounded_numbers, unpacked
    from autotune.importers.number_format import Decimal
    from autotune.profiling import store_profile

    with unpacked(path) as file, bounded_numbers(path), collector.paused():  # a trace is a million objects
        chosen = (Decimal(decimal) if decimal else None,) if importer.localized else ()
        found = importer.read(file, *chosen)
        db = opened()
        with db.all_or_nothing():
            return [
                tuning_results.store(replace(one, file=path.name), db)
                if isinstance(one, tuning_results.TuningResults)
                else store_profile.store(one, db)
                for one in (found if isinstance(found, tuple) else (found,))
            ]
