"""One kind of error for everything a database file can do to a user, always one line with a way out."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuning_db.query_limit import LIMIT_S, LimitedConnection


class DatabaseError(Exception):
    """The message is one line: what is wrong with which file, and what to do about it."""


class LeftOut(UserWarning):
    """A row that makes no sense was left out of what a reader found in `path`."""

    def __init__(self, path: Path, table: str, reason: str) -> None:
        self.path = path
        super().__init__(
            f"tuning database {path} has rows that make no sense and are left out, the first in {table} ({reason}); "
            "`autotune db repair` removes them"
        )


def damaged(path: Path, what: str) -> DatabaseError:
    """For a file that cannot be trusted. It is left as it is: moving it away is the owner's decision."""
    return DatabaseError(
        f"tuning database {path} is damaged ({what}); it was left untouched: "
        "move it away to start afresh, or choose another file with --db"
    )


def read_only(path: Path) -> DatabaseError:
    return DatabaseError(
        f"tuning database {path} is read-only; make it and its directory writable, or choose another file with --db"
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises about `path` into a DatabaseError; a misuse of the API stays what it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_INTERRUPT:
            expired, LimitedConnection.expired = LimitedConnection.expired, False
            if not expired:
                raise KeyboardInterrupt from None
        raise _explain(path, error) from error


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (the low byte of the extended one); 0 when the Python module itself raised."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explain(path: Path, error: sqlite3.Error) -> DatabaseError:
    code = primary_code(error)
    text = " ".join(str(error).split())
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "Could not decode" in text:
        return damaged(path, text)
    if code == sqlite3.SQLITE_READONLY:
        return read_only(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseError(
            f"tuning database {path} stayed locked by another process; wait for it to finish, "
            "or choose another file with --db"
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return DatabaseError(
            f"tuning database {path} took more than {LIMIT_S:.0f} s to answer; check it with `autotune db info`, "
            "or choose another file with --db"
        )
    if code == sqlite3.SQLITE_FULL:
        return DatabaseError(
            f"no space left for tuning database {path}; everything recorded so far is kept: "
            "free some space or choose another file with --db"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return DatabaseError(
            f"tuning database {path} cannot be opened; check that the file and its directory are accessible, "
            "or choose another file with --db"
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL):
        return DatabaseError(
            f"tuning database {path} cannot be used where it is ({text}); check the disk, "
            "or choose a file on a local one with --db"
        )
    return DatabaseError(
        f"tuning database {path} did not accept the request ({text}); check it with `autotune db info`, "
        "or choose another file with --db"
    )
