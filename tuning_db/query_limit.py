"""A connection whose queries end: after a while by themselves, and at once when the user interrupts."""

import sqlite3
import time
from typing import Any

LIMIT_S = 120.0  # of one statement; the longest of ours reads a whole database in seconds
STEPS = 200_000  # of SQLite's machine between two looks at the clock: about 2 ms


class LimitedConnection(sqlite3.Connection):
    """Text that is no UTF-8 is read all the same, for the reader of the row to refuse: it must not end the query."""

    expired = False  # whether a query that was ended took too long; else the user has interrupted it

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ends_at = float("inf")
        self.text_factory = _text
        self.set_progress_handler(self._is_over, STEPS)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._ends_at = time.monotonic() + LIMIT_S
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError as error:  # of its own message, which quotes names of a damaged file
            raise sqlite3.DatabaseError("database disk image is malformed") from error

    def _is_over(self) -> bool:
        # An interrupt that is raised in here ends the query too, and `errors.translated` raises it again.
        over = time.monotonic() > self._ends_at
        if over:
            LimitedConnection.expired = True
        return over


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
