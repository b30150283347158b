"""Refuses a file whose schema could run another program's code: foreign views and triggers, tables that are none.

A view in place of a table, or a trigger on one, is a query that somebody else wrote: it can take for ever, or answer
anything. The schema of a file of ours is known to the letter, so whatever is not ours is refused before it is used.
"""

import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuning_db import uids
from tuning_db.errors import DatabaseError
from tuning_db.migration import Migration


def require_ours(connection: sqlite3.Connection, path: Path, applied: tuple[Migration, ...]) -> None:
    """applied: the migrations that this file has had. Reads only. Raises DatabaseError."""
    ours = _expected(applied)
    found = _schema(connection)
    for (kind, name), sql in found.items():
        if kind in ("view", "trigger") and ours.get((kind, name)) != sql:
            raise _foreign(path, kind, name)
        if kind == "table" and sql.upper().startswith("CREATE VIRTUAL"):
            raise _foreign(path, "virtual table", name)
    for kind, name in ours:
        if (kind, name) not in found:
            raise _foreign(path, f"missing {kind}", name)
        if kind == "table":
            columns = _columns(connection, name)
            if any(columns.values()) or not columns.keys() >= _columns_of(applied)[name]:
                raise _foreign(path, "table", name)


def _foreign(path: Path, kind: str, name: str) -> DatabaseError:
    return DatabaseError(
        f"{path} is not opened: the {kind} {name[:40]!a} in it is not as autotune makes it; "
        "choose another file with --db"
    )


def _words(sql: Any) -> str:
    return " ".join(str(sql).split())


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """(type, name) → SQL of tables, views and triggers. An index runs nothing that its table does not."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE type != 'index'")
    return {(str(kind), str(name)): _words(sql) for kind, name, sql in rows}


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, int]:
    """Names; not 0 where a column is hidden or computed."""
    rows = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
    return {str(name): int(hidden) for name, hidden in rows}


@lru_cache(maxsize=16)
def _expected(applied: tuple[Migration, ...]) -> dict[tuple[str, str], str]:
    with closing(_made(applied)) as connection:
        return _schema(connection)


@lru_cache(maxsize=16)
def _columns_of(applied: tuple[Migration, ...]) -> dict[str, frozenset[str]]:
    with closing(_made(applied)) as connection:
        tables = [name for kind, name in _schema(connection) if kind == "table"]
        return {name: frozenset(_columns(connection, name)) for name in tables}


def _made(applied: tuple[Migration, ...]) -> sqlite3.Connection:
    """An empty database that has had the same migrations."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    uids.register(connection)
    for migration in applied:
        for statement in migration.statements:
            connection.execute(statement)
    return connection
