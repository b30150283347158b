"""`autotune import`: reads files of other tools into the tuning database."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output

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
    nsight) and its CSV (--page raw, --page details), SQLite exports of Nsight Systems and the CSV of nsys stats, logs
    of Helion's autotuner; kernels of ours are joined to their problem and configuration. And results of other
    auto-tuners: T4 (autotune export writes it) and Kernel Tuner's cache files; each becomes a run of the device that it
    names. Files packed with gzip or xz are read too.

    \b
    Example:
      autotune import report.ncu-rep
      autotune import trace.sqlite kernels.csv gemm_A100_T4.json.gz
    """
    from dataclasses import asdict

    from autotune.importers import registry
    from autotune.importers.files import NO_END

    importers = []
    for file in files:  # before anything is stored
        importer = registry.recognize(file)
        if importer is None:
            known = ", ".join(each.name for each in registry.IMPORTERS)
            raise UserError(f"{file} is of no kind that can be imported; these can: {known}")
        importers.append(importer)
    with options.open_database(db_path, readonly=False) as db:
        done = [store(importer, file, db, decimal) for importer, file in zip(importers, files, strict=True)]
    if as_json:
        output.print_json({"imported": [asdict(summary) for summary in done]})
        return
    for summary in done:
        output.line(f"{summary.file}: {summary.line}")
        if summary.note and NO_END not in summary.note:  # that is kept for the page of provenance
            output.note(f"{summary.file}: {summary.note}")


def store(
    importer: "Importer", path: Path, db: "TuningDB", decimal: str | None = None
) -> "ProfileSummary | ResultsSummary":
    """Read a file and store what is in it; decimal: "comma" or "point", None to find out. Raises UserError."""
    from autotune.importers import tuning_results
    from autotune.importers.files import bounded_numbers, unpacked
    from autotune.importers.number_format import Decimal
    from autotune.profiling import store_profile

    with unpacked(path) as file, bounded_numbers(path):
        chosen = (Decimal(decimal) if decimal else None,) if importer.localized else ()
        found = importer.read(file, *chosen)
        if isinstance(found, tuning_results.TuningResults):
            return tuning_results.store(replace(found, file=path.name), db)
        return store_profile.store(found, db)
