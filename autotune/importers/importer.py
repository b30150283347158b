"""The declaration of a foreign format: an Importer if it can be read, an Exporter if it can be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.importers.tuning_results import TuningResults
from tuning_db.profile_records import Profile
from tuning_db.records import StoredRun, Trial


@dataclass(frozen=True)
class Importer:
    """A format that can be read.

    name: as error messages list it; recognizes: from a file's first bytes (`files.head_of`), gzip undone; read: of a
    path, several where a file holds several runs; raises UserError for a file that is damaged, OverflowError or
    ValueError where it has a number that nothing can hold or a value of another type than belongs there; localized:
    whether `read` takes, after the path, what separates decimals (`number_format.Decimal` or None), because a program
    printed them in its locale.
    """

    name: str
    recognizes: Callable[[bytes], bool]
    read: Callable[..., Profile | TuningResults | tuple[Profile | TuningResults, ...]]
    localized: bool = False


@dataclass(frozen=True)
class Exporter:
    """A format that a run is written in. document: its JSON document, checked against the format's schema."""

    name: str
    document: Callable[[StoredRun, Sequence[Trial]], dict[str, Any]]
