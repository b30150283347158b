"""Removes rows that make no sense, and what belongs to them; names each. A sensible row is never touched."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tuning_db import keys, profile_rows, validation, winner_rows
from tuning_db.field_checks import shown


@dataclass(frozen=True)
class Removed:
    """One row: its table, its number there, what it was about, and the reason."""

    table: str
    number: int
    name: str
    reason: str


# Each table after those that it refers to; what names a row for people; and its references: column, table, whether
# the row makes no sense without.
_TABLES: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...]], ...] = (
    ("devices", "chip", ()),
    ("device_ceilings", "name", (("device_id", "devices", True),)),
    ("problems", "key", ()),
    ("spaces", "uid", ()),
    ("runs", "uid", (("device_id", "devices", True), ("problem_id", "problems", True), ("space_id", "spaces", False))),
    ("run_trials", "config", (("run_id", "runs", True),)),
    (
        "winners", "config",
        (
            ("device_id", "devices", True), ("problem_id", "problems", True), ("run_id", "runs", False),
            ("trial_id", "run_trials", False),
        ),
    ),
    ("profiles", "file", ()),
    ("profile_ranges", "name", (("profile_id", "profiles", True),)),
    ("profile_waits", "name", (("profile_id", "profiles", True),)),
    ("profile_sources", "name", (("profile_id", "profiles", True),)),
    ("profile_tables", "report", (("profile_id", "profiles", True),)),
    ("profile_table_rows", "cells", (("profile_id", "profiles", True),)),
    ("profile_launches", "kernel", (("profile_id", "profiles", True),)),
    ("profile_findings", "rule", (("launch_id", "profile_launches", True),)),
    ("profile_lines", "sass", (("launch_id", "profile_launches", True),)),
)  # fmt: skip


def repair(db: sqlite3.Connection) -> list[Removed]:
    """Within the caller's transaction. Rows that are left without what they belong to are removed with it."""
    db.execute("PRAGMA defer_foreign_keys = ON")  # a parent goes before what belongs to it
    removed: list[Removed] = []
    for table, name, references in _TABLES:
        if table == "problems":
            _derive_again(db)
        for found in list(_senseless(db, table, name, references)):
            db.execute(f"DELETE FROM {table} WHERE rowid = ?", (found.number,))
            removed.append(found)
        for column, parent, needed in references:
            if not needed:
                db.execute(
                    f"UPDATE {table} SET {column} = NULL WHERE {column} IS NOT NULL "
                    f"AND {column} NOT IN (SELECT id FROM {parent})"
                )
    if not db.execute("SELECT count(*) FROM winners_state WHERE typeof(generation) = 'integer'").fetchone()[0]:
        db.execute("INSERT OR REPLACE INTO winners_state VALUES (1, 1)")
    for key in db.execute("SELECT DISTINCT device_id, problem_id, template_version FROM winners").fetchall():
        winner_rows.choose_current(db, key)
    return removed


def _senseless(
    db: sqlite3.Connection, table: str, name: str, references: tuple[tuple[str, str, bool], ...]
) -> Iterator[Removed]:
    missing = [
        f"{column} IS NULL OR {column} NOT IN (SELECT id FROM {parent})"
        for column, parent, needed in references
        if needed
    ]
    orphan = " OR ".join(missing) or "0"
    cursor = db.execute(f"SELECT rowid AS number_in_file, ({orphan}) AS orphan, * FROM {table}")
    columns = [column[0] for column in cursor.description]
    metrics = _metrics(db) if table == "profile_launches" else {}
    for values in cursor:
        row = dict(zip(columns, values, strict=True))
        reason = "what it belongs to is gone" if row["orphan"] else _reason(table, row, metrics)
        if reason:
            yield Removed(table, row["number_in_file"], shown(row[name]), reason)


def _metrics(db: sqlite3.Connection) -> dict[int, profile_rows.Columns]:
    """Of every profile that is left, the metrics that its launches have values of."""
    cursor = db.execute("SELECT * FROM profiles")
    names = [column[0] for column in cursor.description]
    found = (dict(zip(names, values, strict=True)) for values in cursor)
    return {row["id"]: profile_rows.columns_from(row) for row in found}


def _reason(table: str, row: dict, metrics: Mapping[int, profile_rows.Columns]) -> str | None:
    try:
        validation.row(table, row)
        if table == "profiles":
            profile_rows.columns_from(row)
        elif table == "profile_launches":
            profile_rows.launch_from(row, metrics[row["profile_id"]])
    except ValueError as error:
        return str(error)
    return None


def _derive_again(db: sqlite3.Connection) -> None:
    """What a problem's row says beside its key follows from the key."""
    for number, key, *known in db.execute("SELECT id, key, op, family, logs FROM problems").fetchall():
        if isinstance(key, str):
            row = keys.row(key)
            if known != [row["op"], row["family"], row["logs"]]:
                db.execute(
                    "UPDATE problems SET op = :op, family = :family, logs = :logs WHERE id = :id", {**row, "id": number}
                )
