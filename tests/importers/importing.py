"""A file imported as `autotune import` does it."""

from pathlib import Path

from autotune.commands.import_ import store
from autotune.importers import registry
from autotune.importers.tuning_results import ResultsSummary
from autotune.profiling.store_profile import ProfileSummary
from tuning_db import TuningDB


def import_file(path: Path, db: TuningDB) -> ProfileSummary | ResultsSummary | None:
    """None for a file of no known format. Raises UserError."""
    importer = registry.recognize(path)
    return None if importer is None else store(importer, path, db)
