"""Opens the one SQLite file without ever harming it.

Whatever is not a healthy tuning database (a directory, another program's file, a damaged or a newer one) is refused
before it is opened for writing, so nothing is created, recovered or overwritten in it. Nothing is moved either: a
file that is damaged today may be half of a copy that finishes tomorrow, and only its owner knows.
"""

import os
import sqlite3
import time
from pathlib import Path

from tuning_db import migrations
from tuning_db.errors import DatabaseError, damaged, primary_code, read_only, translated
from tuning_db.query_limit import LimitedConnection

BUSY_TIMEOUT_S = 10.0
# Checking every page costs about 1.5 ms a megabyte; above this size only the pages in use are checked, by using them.
FULL_CHECK_BYTES = 256 << 20

_MAGIC = b"SQLite format 3\0"


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. An older schema is brought up to date in a copy in memory, not in the file.

    Raises DatabaseError when the file is missing, not a tuning database, damaged, or newer than this program.
    """
    _require_database_file(path)
    with translated(path):
        connection = _connect_read_only(path)
        try:
            version = migrations.check(connection, path)
            if version < migrations.LATEST:
                connection = _migrated_copy(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode with the current schema; the file and its directories are made where missing.

    Raises DatabaseError like `open_for_reading`, and when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        exists = path.exists()
    except OSError as error:
        raise _no_access(path, error) from error
    if exists:
        _require_database_file(path)
        if not os.access(path, os.W_OK):
            raise read_only(path)
        _require_healthy(path)
    with translated(path):
        connection = _connect(path, "mode=rwc")
        try:
            _switch_to_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            migrations.migrate(connection)
            # SQLite opens a file it may not write without a word; better to hear of it before an hour of tuning.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return connection


def open_empty() -> sqlite3.Connection:
    """An empty database in memory, for reading where there is no file yet."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.migrate(connection)
    return connection


def _require_database_file(path: Path) -> None:
    """Look at the file before SQLite does: a pipe would block it, a directory or a text file get a poor message."""
    try:
        if path.is_dir():
            raise DatabaseError(f"{path} is a directory; name a file with --db, for example --db {path / 'tuning.db'}")
        if not path.exists():
            raise DatabaseError(
                f"there is no tuning database {path}; check --db, or make it with `autotune tune MODEL --db {path}`"
            )
        if not path.is_file():
            raise DatabaseError(f"{path} is not a regular file; choose another file with --db")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise _no_access(path, error) from error
    if magic and magic != _MAGIC:
        raise damaged(path, "not an SQLite file")


def _require_healthy(path: Path) -> None:
    """Refuse a damaged, foreign or newer file while it is open for reading only."""
    with translated(path):
        connection = _connect_read_only(path)
        try:
            migrations.check(connection, path)
            if path.stat().st_size <= FULL_CHECK_BYTES:
                finding = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                if finding != "ok":
                    raise damaged(path, " ".join(finding.split()))
        finally:
            connection.close()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    # isolation_level None: transactions begin and end where this package says so, never implicitly.
    uri = f"{path.absolute().as_uri()}?{options}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, factory=LimitedConnection
    )  # fmt: skip
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _connect_read_only(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("PRAGMA schema_version").fetchone()
        return connection
    except sqlite3.Error as error:
        connection.close()
        if primary_code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    # A WAL database needs its -shm file even for reading, and this directory takes none. Without that file no one
    # is writing, so the database may be read as a plain file, unless its last commits still wait in the log.
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise DatabaseError(
            f"tuning database {path} has unfinished writes in {log.name} and its directory is read-only; "
            "copy both files to a writable directory and name the copy with --db"
        )
    return _connect(path, "mode=ro&immutable=1")


def _migrated_copy(connection: sqlite3.Connection) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", isolation_level=None, factory=LimitedConnection)
    connection.backup(copy)
    connection.close()
    migrations.migrate(copy)
    return copy


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """The switch needs the file alone for a moment, and SQLite does not always wait for that by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _no_access(path: Path, error: OSError) -> DatabaseError:
    return DatabaseError(
        f"tuning database {path} cannot be opened ({error.strerror or error}); choose another file with --db"
    )
