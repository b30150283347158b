"""Lists every foreign format and recognizes a file's by its first bytes, never by its name."""

from pathlib import Path

from autotune.importers import files, helion_log, kernel_tuner, ncu_csv, ncu_rep, nsys_csv, nsys_sqlite, t1, t4
from autotune.importers.importer import Exporter, Importer

# The first one that recognizes a file reads it.
IMPORTERS: tuple[Importer, ...] = (
    ncu_rep.IMPORTER,
    nsys_sqlite.IMPORTER,
    ncu_csv.IMPORTER,
    nsys_csv.IMPORTER,
    helion_log.IMPORTER,
    t4.IMPORTER,
    kernel_tuner.IMPORTER,
)
EXPORTERS: dict[str, Exporter] = {exporter.name: exporter for exporter in (t4.EXPORTER, t1.EXPORTER)}


def recognize(path: Path) -> Importer | None:
    """None for a file of no known format. Raises UserError for one that is empty or cannot be read."""
    head = files.head_of(path)
    if not head:
        raise files.unusable(path, "is empty", "record or export it again")
    return next((importer for importer in IMPORTERS if importer.recognizes(head)), None)
