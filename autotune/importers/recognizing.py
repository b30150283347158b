"""Which of all kinds of files one is: profilers' and auto-tuners', by its first bytes, gzipped or not."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from autotune.importers import kernel_tuner, registry, report_files, t4
from tuning_db import TuningDB


class Kind(Protocol):
    """load: into the database; gives what an import brought, with a field `file`. Raises UserError."""

    @property
    def name(self) -> str: ...
    @property
    def recognizes(self) -> Callable[[bytes, Path], bool]: ...
    @property
    def load(self) -> Callable: ...


class Results(NamedTuple):
    """A kind of file with tuning results."""

    name: str
    recognizes: Callable[[bytes, Path], bool]
    load: Callable[[Path, TuningDB], object]


RECOGNIZERS: tuple[Kind, ...] = (
    *registry.RECOGNIZERS,
    Results("T4 results", t4.recognizes, t4.load),
    Results("Kernel Tuner's cache", kernel_tuner.recognizes, kernel_tuner.load),
)


def recognize(path: Path) -> Kind | None:
    """None for a file of no kind that is known. Raises UserError for one that is empty or cannot be read."""
    head = report_files.head_of(path)
    if not head:
        raise report_files.unusable(path, "is empty", "record or export it again")
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, report_files.HEAD_BYTES)
        except zlib.error:
            raise report_files.unusable(path, "is damaged: it begins as a gzipped file", "copy it again") from None
    return next((kind for kind in RECOGNIZERS if kind.recognizes(head, path)), None)
