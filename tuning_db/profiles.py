"""Profiles in the database: what profilers said, one row for each imported file and one for each launch in it.

Functions rather than methods of `TuningDB`: neither tuning nor the engine asks for them. Every one raises DatabaseError
when the file fails underneath it.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tuning_db import profile_rows, rows, validation
from tuning_db.errors import translated
from tuning_db.profile_records import (
    Columns,
    HostWait,
    KernelLaunch,
    Profile,
    Provenance,
    Range,
    ReportTable,
    StoredProfile,
)
from tuning_db.reading import Reader
from tuning_db.store import TuningDB

PART = 10_000  # rows that are checked and written at once

_LISTED = """
    SELECT p.*, count(l.id) AS rows, sum(l.duration_ns) AS total_ns
    FROM profiles p LEFT JOIN profile_launches l ON l.profile_id = p.id
"""


def store(db: TuningDB, profile: Profile) -> int:
    """Keep a profile and return its id. The same file again replaces what was read from it before."""
    with db._transaction():
        for (old,) in db._connection.execute("SELECT id FROM profiles WHERE sha256 = ?", (profile.provenance.sha256,)):
            _forget(db, old)
        number = db._insert("profiles", {**profile_rows.profile_row(profile), "imported_at": rows.utc_now()})
        _insert_many(
            db, "profile_ranges", number, profile_rows.RANGE_COLUMNS,
            (profile_rows.range_row(place, item) for place, item in enumerate(profile.ranges)),
        )  # fmt: skip
        _insert_many(
            db, "profile_waits", number, profile_rows.WAIT_COLUMNS,
            (profile_rows.wait_row(place, wait) for place, wait in enumerate(profile.waits)),
        )  # fmt: skip
        for place, table in enumerate(profile.tables):
            db._insert("profile_tables", {"profile_id": number, **profile_rows.table_row(place, table)})
            _insert_many(
                db, "profile_table_rows", number, profile_rows.TABLE_ROW_COLUMNS, profile_rows.table_rows(place, table)
            )
        for name, text in profile.sources.items():
            db._insert("profile_sources", {"profile_id": number, "name": name, "text": text})
        launches = (profile_rows.launch_row(launch) for launch in profile.launches)
        _insert_many(db, "profile_launches", number, profile_rows.LAUNCH_COLUMNS, launches)
        _store_details(db, number, profile)
    return number


def listed(db: Reader) -> list[StoredProfile]:
    """Every profile without its rows, in the order they were imported."""
    return db._read("profiles", _LISTED + "GROUP BY p.id ORDER BY p.id", (), profile_rows.stored_profile_from)


# Rows that a trace (`tuning_db.traces`) says everything about.
_PLAIN = (
    "start_ns IS NOT NULL AND duration_ns IS NOT NULL AND metric_values IS NULL AND kind NOT IN ('summary', 'trial')"
)


def load(db: Reader, number: int, traced: bool = True) -> Profile:
    """The whole profile with this id; traced: also the launches that only a timeline knows, of which there may be a
    hundred thousand. Raises KeyError if there is no such profile."""
    columns, about = _about(db, number)
    findings = _grouped(db, "profile_findings", number, profile_rows.finding_from)
    lines = _grouped(db, "profile_lines", number, profile_rows.line_from)

    def built(row: rows.Row) -> KernelLaunch:
        mine = row["id"]
        return profile_rows.launch_from(row, columns, tuple(findings.get(mine, ())), tuple(lines.get(mine, ())))

    kept = "profile_id = ?" if traced else f"profile_id = ? AND NOT ({_PLAIN})"
    launches = db._read(
        "profile_launches", f"SELECT * FROM profile_launches WHERE {kept} ORDER BY place", (number,), built
    )
    nested = ranges(db, number)
    launches = [
        launch if launch.range is None or launch.range < len(nested) else replace(launch, range=None)
        for launch in launches
    ]
    sources = db._read(
        "profile_sources",
        "SELECT name, text FROM profile_sources WHERE profile_id = ? ORDER BY name",
        (number,),
        lambda row: validation.row("profile_sources", row),
    )
    texts = {row["name"]: row["text"] for row in sources}
    return Profile(about, tuple(launches), nested, texts, _tables(db, number), waits(db, number))


def provenance(db: Reader, number: int) -> Provenance:
    """Where the profile with this id came from. Raises KeyError if there is none."""
    return _about(db, number)[1]


def ranges(db: Reader, number: int) -> tuple[Range, ...]:
    """The ranges of a profile, in order of their places; none where one of them is missing or makes no sense, since
    launches and ranges name ranges by their place."""
    names = profile_rows.RANGE_COLUMNS
    with translated(db.path):
        found = db._connection.execute(
            f"SELECT {', '.join(names)} FROM profile_ranges WHERE profile_id = ? ORDER BY place", (number,)
        ).fetchall()
    try:
        validation.rows("profile_ranges", names, found)
    except ValueError as error:
        db._warn("profile_ranges", str(error))
        return ()
    sound = all(place == at and (parent is None or parent < at) for at, (place, _, parent, *_) in enumerate(found))
    return tuple(Range(*values) for _, *values in found) if sound else ()


def waits(db: Reader, number: int) -> tuple[HostWait, ...]:
    """Calls in which the host waited for a GPU, in the order of their places."""
    return tuple(
        db._read(
            "profile_waits",
            "SELECT * FROM profile_waits WHERE profile_id = ? ORDER BY place",
            (number,),
            profile_rows.wait_from,
        )
    )


def _about(db: Reader, number: int) -> tuple[Columns, Provenance]:
    found = db._read(
        "profiles",
        "SELECT * FROM profiles WHERE id = ?",
        (number,),
        lambda row: (profile_rows.columns_from(row), profile_rows.provenance_from(row)),
    )
    if not found:
        raise KeyError(f"no profile has the id {number}")
    return found[0]


def _tables(db: Reader, number: int) -> tuple[ReportTable, ...]:
    cells: dict[int, list[tuple[float | str | None, ...]]] = defaultdict(list)
    for row in db._read(
        "profile_table_rows",
        "SELECT * FROM profile_table_rows WHERE profile_id = ? ORDER BY table_place, place",
        (number,),
        lambda row: validation.row("profile_table_rows", row),
    ):
        cells[row["table_place"]].append(tuple(row["cells"]))
    return tuple(
        db._read(
            "profile_tables",
            "SELECT * FROM profile_tables WHERE profile_id = ? ORDER BY place",
            (number,),
            lambda row: profile_rows.table_from(row, cells[row["place"]]),
        )
    )


def of_problem(db: Reader, problem: str) -> list[int]:
    """Ids of the profiles that have launches of this problem, newest last."""
    return db._read(
        "profile_launches",
        "SELECT DISTINCT profile_id FROM profile_launches WHERE problem = ? ORDER BY profile_id",
        (problem,),
        lambda row: int(row["profile_id"]),
    )


def _insert_many(
    db: TuningDB, table: str, number: int, columns: Sequence[str], values: Iterable[tuple[Any, ...]]
) -> None:
    left = iter(values)
    while part := tuple(zip(*itertools.islice(left, PART), strict=True)):
        validation.columns(table, columns, part)
        # Of a trace's columns a third is empty, and to say so of every row takes a third of the time.
        filled = [at for at, column in enumerate(part) if column.count(None) < len(column)]
        names = ", ".join(columns[at] for at in filled)
        statement = f"INSERT INTO {table} (profile_id, {names}) VALUES ({number:d}{', ?' * len(filled)})"
        db._connection.executemany(statement, zip(*(part[at] for at in filled), strict=True))


def _store_details(db: TuningDB, number: int, profile: Profile) -> None:
    """Rules and instructions of the launches that have any: a few of many."""
    detailed = [launch for launch in profile.launches if launch.findings or launch.lines]
    if not detailed:
        return
    ids = dict(
        db._connection.execute("SELECT place, id FROM profile_launches WHERE profile_id = ?", (number,)).fetchall()
    )
    for launch in detailed:
        for finding in launch.findings:
            db._insert("profile_findings", {"launch_id": ids[launch.place], **profile_rows.finding_row(finding)})
        for line in launch.lines:
            db._insert("profile_lines", {"launch_id": ids[launch.place], **profile_rows.line_row(line)})


def _grouped(db: Reader, table: str, number: int, build: Any) -> dict[int, list[Any]]:
    found = db._read(
        table,
        f"SELECT t.* FROM {table} t JOIN profile_launches l ON l.id = t.launch_id WHERE l.profile_id = ? ORDER BY t.id",
        (number,),
        lambda row: (int(row["launch_id"]), build(row)),
    )
    groups = defaultdict(list)
    for launch, item in found:
        groups[launch].append(item)
    return groups


def _forget(db: TuningDB, number: int) -> None:
    mine = "SELECT id FROM profile_launches WHERE profile_id = ?"
    with translated(db.path):
        for table in ("profile_findings", "profile_lines"):
            db._connection.execute(f"DELETE FROM {table} WHERE launch_id IN ({mine})", (number,))
        for table in (
            "profile_launches", "profile_ranges", "profile_waits", "profile_sources", "profile_tables",
            "profile_table_rows",
        ):  # fmt: skip
            db._connection.execute(f"DELETE FROM {table} WHERE profile_id = ?", (number,))
        db._connection.execute("DELETE FROM profiles WHERE id = ?", (number,))
