"""Lists every foreign format and recognizes a file's by its first bytes, never by its name."""

from pathlib import Path

from autotune import UserError
from autotune.importers import (
    files,
    helion_log,
    kernel_tuner,
    ktt,
    ncu_csv,
    ncu_rep,
    nsys_csv,
    nsys_sqlite,
    t1,
    t4,
    tritonparse,
)
from autotune.importers import unreadable as unreadable_files
from autotune.importers.importer import Exporter, Importer

# The first one that recognizes a file reads it.
IMPORTERS: tuple[Importer, ...] = (
    ncu_rep.IMPORTER,
    nsys_sqlite.IMPORTER,
    ncu_csv.IMPORTER,
    nsys_csv.IMPORTER,
    helion_log.IMPORTER,
    tritonparse.IMPORTER,
    t4.IMPORTER,
    kernel_tuner.IMPORTER,
    ktt.IMPORTER,
)
EXPORTERS: dict[str, Exporter] = {exporter.name: exporter for exporter in (t4.EXPORTER, t1.EXPORTER)}


def recognize(path: Path) -> Importer | None:
    """None for a file of no known format. Raises UserError for one that is empty or cannot be read."""
    return _recognized(_head_of(path))


def importer_of(path: Path) -> Importer:
    """`recognize`, and for a file of no known format a UserError that says what it is, where that can be told."""
    head = _head_of(path)
    if found := _recognized(head):
        return found
    if unreadable := unreadable_files.recognized(path, head):
        raise unreadable.error(path)
    known = ", ".join(importer.name for importer in IMPORTERS)
    raise UserError(f"{path} is of no kind that can be imported; these can: {known}")


def _head_of(path: Path) -> bytes:
    head = files.head_of(path)
    if not head:
        raise files.unusable(path, "is empty", "record or export it again")
    return head


def _recognized(head: bytes) -> Importer | None:
    return next((importer for importer in IMPORTERS if importer.recognizes(head)), None)
