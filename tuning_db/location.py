"""The default path of the tuning database."""

import os
from pathlib import Path

import platformdirs

ENVIRONMENT_VARIABLE = "AUTOTUNE_DB"


def default_path() -> Path:
    """The file named by $AUTOTUNE_DB, else `tuning.db` in the user's data directory. Nothing is created."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named).expanduser()
    return platformdirs.user_data_path("autotune", appauthor=False) / "tuning.db"
