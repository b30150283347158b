"""What was tuned where, and how it was found: one SQLite file.

`open_db` is the way in; `records` are the rows that travel; every failure a user can cause is a `DatabaseError`.
"""

from tuning_db.errors import DatabaseError
from tuning_db.location import default_path
from tuning_db.store import TuningDB, open_db

__all__ = ["DatabaseError", "TuningDB", "default_path", "open_db"]
