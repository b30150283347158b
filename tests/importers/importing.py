"""A file imported as `autotune import` does it."""

from pathlib import Path

from autotune.commands.import_ import store
from autotune.importers import registry
from autotune.importers.tuning_results import ResultsSummary
from autotune.profiling.store_profile import ProfileSummary
from tuning_db import TuningDB


def import_file(path: Path, db: TuningDB) -> ProfileSummary | ResultsSummary:
    """Of a file with one profile or run. Raises UserError."""
    (summary,) = import_all(path, db)
    return summary


def import_all(path: Path, db: TuningDB) -> list[ProfileSummary | ResultsSummary]:
    return store(registry.importer_of(path), path, lambda: db)
