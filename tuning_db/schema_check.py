"""Refuses a file whose schema could run another program's code: foreign views and triggers, tables that are none.

A view in place of a table, or a trigger on one, is a query that somebody else wrote: it can take for ever, or answer
anything. The schema of a file of ours is known to the letter, so whatever is not ours is refused before it is used.
"""

import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuning_db.errors import DatabaseError
from tuning_db.migration import Migration


def require_ours(connection: sqlite3.Connection, path: Path, applied: tuple[Migration, ...]) -> None:
    """applied: the migrations that this file has had. Reads only. Raises DatabaseError."""
    ours = _expected(applied)
    found = {
        (str(kind), str(name)): _words(sql)
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master WHERE type != 'index'")
    }
    for (kind, name), sql in found.items():
        if kind in ("view", "trigger") and ours.get((kind, name)) != sql:
            raise _foreign(path, kind, name)
        if kind == "table" and sql.upper().startswith("CREATE VIRTUAL"):
            raise _foreign(path, "virtual table", name)
    for kind, name in ours:
        if (kind, name) not in found:
            raise _foreign(path, f"schema without its {kind}", name)
        if kind == "table" and not _columns(connection, name) >= _table_columns(applied, name):
            raise _foreign(path, "table", name)


def _foreign(path: Path, kind: str, name: str) -> DatabaseError:
    return DatabaseError(
        f"{path} has a {kind} {ascii(name[:40])} that is not autotune's, and is not opened; "
        "remove that, or choose another file with --db"
    )


def _words(sql: Any) -> str:
    return " ".join(str(sql).split())


def _columns(connection: sqlite3.Connection, table: str) -> frozenset[tuple[str, int]]:
    """Names, each with whether it is hidden or computed."""
    return frozenset(
        (str(row[1]), int(row[6])) for row in connection.execute("SELECT * FROM pragma_table_xinfo(?)", (table,))
    )


@lru_cache(maxsize=16)
def _expected(applied: tuple[Migration, ...]) -> dict[tuple[str, str], str]:
    connection = _made(applied)
    try:
        return {
            (kind, name): _words(sql)
            for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master WHERE type != 'index'")
        }
    finally:
        connection.close()


@lru_cache(maxsize=256)
def _table_columns(applied: tuple[Migration, ...], table: str) -> frozenset[tuple[str, int]]:
    connection = _made(applied)
    try:
        return _columns(connection, table)
    finally:
        connection.close()


def _made(applied: tuple[Migration, ...]) -> sqlite3.Connection:
    """An empty database that has had the same migrations."""
    from tuning_db import uids

    connection = sqlite3.connect(":memory:", isolation_level=None)
    uids.register(connection)
    for migration in applied:
        for statement in migration.statements:
            connection.execute(statement)
    return connection
