"""What was tuned where, and how it was found: one SQLite file.

`open_db` is the way in; `records` are the rows that travel; every failure a user can cause is a `DatabaseError`.
"""

from typing import TYPE_CHECKING, Any

from tuning_db.errors import DatabaseError
from tuning_db.location import default_path

if TYPE_CHECKING:
    from tuning_db.store import TuningDB, open_db

__all__ = ["DatabaseError", "TuningDB", "default_path", "open_db"]


def __getattr__(name: str) -> Any:
    """The store brings the libraries of SQLite, which workers, whose messages hold records, do without."""
    if name not in ("TuningDB", "open_db"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tuning_db import store

    return getattr(store, name)
