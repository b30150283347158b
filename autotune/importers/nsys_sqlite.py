"""Nsight Systems' SQLite exports (`nsys export --type sqlite`): kernels, CUDA graphs, and the NVTX ranges around them.

The schema is the one of NVIDIA's exporter documentation (nsys-exporter, 2022.4 to 2025); columns that came and went are
asked for first. A kernel belongs to the innermost range that its launch was called in, found by the correlation number
of the API call: so time is counted once, however ranges nest. A graph captured at graph level has its time in a table
of its own, and no kernels.
"""

import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from autotune.importers import files
from autotune.importers.importer import Importer
from tuning_db.profile_records import KernelLaunch, Profile, Provenance, Range, RowKind

MAGIC = b"SQLite format 3\0"
KERNELS, GRAPHS = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
CALLS, RANGES, STRINGS = "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS", "StringIds"
PUSH_POP = 59  # NVTX_EVENTS.eventType of a range that one thread pushed and popped
PROCESS = -1 << 24  # the bits of a global thread id that are its process's
AGAIN = "export it again"

# (thread, start, end): when an API call was made, in which thread.
Call = tuple[int, int]


def recognizes(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read(path: Path) -> Profile:
    """Raises UserError for a database that is damaged or of another program, or has neither kernels nor graphs."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            return _read(path, connection)
        finally:
            connection.close()
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise files.unusable(path, f"is damaged ({' '.join(str(error).split())})", AGAIN) from None


def _read(path: Path, db: sqlite3.Connection) -> Profile:
    tables = _tables(db)
    if not tables & {KERNELS, GRAPHS}:
        if tables & {CALLS, RANGES, "META_DATA_EXPORT"}:
            raise files.unusable(path, "has no kernels", "record with nsys profile --trace cuda,nvtx")
        raise files.unusable(path, "is no export of Nsight Systems", "give one made by nsys export --type sqlite")
    # A cut file: SQLite itself would notice only when it comes to a page that is missing.
    pages, size = db.execute("PRAGMA page_count").fetchone()[0], db.execute("PRAGMA page_size").fetchone()[0]
    if pages * size != path.stat().st_size:
        raise files.unusable(path, "is damaged: its size is not what its header says", AGAIN)
    finding = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise files.unusable(path, f"is damaged ({' '.join(str(finding).split())})", AGAIN)
    ranges, spans = _ranges(db, tables)
    calls = _calls(db, tables)
    rows = (_kernels(db) if KERNELS in tables else []) + (_graphs(db) if GRAPHS in tables else [])
    rows.sort(key=itemgetter(0, 1))
    launches = [
        KernelLaunch(place, name, kind, grid, block, start, length, 1, stream, _innermost(calls.get(call), spans))
        for place, (start, name, kind, grid, block, length, stream, call) in enumerate(rows)
    ]
    if not launches:
        raise files.unusable(path, "has no kernels", "record with nsys profile --trace cuda,nvtx")
    return Profile(_provenance(path, db, tables, len(launches)), tuple(launches), ranges)


def _tables(db: sqlite3.Connection) -> set[str]:
    """Names of the tables. Each is there three times over, so that a damaged one is seen, and not just missed."""
    found = set()
    for name, table, sql in db.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'table'"):
        if name != table or name not in str(sql):
            raise sqlite3.DatabaseError(f"the table {name!r} has several names")
        found.add(name)
    return found


def _kernels(db: sqlite3.Connection) -> list[tuple]:
    """(start, name, kind, grid, block, length, stream, call) of each; the names of a call: process and correlation."""
    whole = ("start", "end", "gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ", "streamId")
    process = _checked(db, KERNELS, whole)
    found = db.execute(
        f"SELECT s.value, k.start, k.end, k.gridX, k.gridY, k.gridZ, k.blockX, k.blockY, k.blockZ, k.streamId, "
        f"k.correlationId, {process}, k.shortName FROM {KERNELS} k LEFT JOIN {STRINGS} s ON s.id = k.shortName"
    )
    return [
        (
            start, name if isinstance(name, str) else f"kernel {number}", RowKind.KERNEL, (gx, gy, gz), (bx, by, bz),
            end - start, stream, (pid & PROCESS, correlation),
        )
        for name, start, end, gx, gy, gz, bx, by, bz, stream, correlation, pid, number in found
    ]  # fmt: skip


def _graphs(db: sqlite3.Connection) -> list[tuple]:
    process = _checked(db, GRAPHS, ("start", "end", "streamId"))
    found = db.execute(f"SELECT graphId, start, end, streamId, correlationId, {process} FROM {GRAPHS}")
    return [
        (start, f"graph {number}", RowKind.GRAPH, None, None, end - start, stream, (pid & PROCESS, correlation))
        for number, start, end, stream, correlation, pid in found
    ]


def _checked(db: sqlite3.Connection, table: str, whole: Sequence[str]) -> str:
    """The column of the process, or 0 where this version has none. Raises sqlite3.DataError for rows without sense."""
    process = ("globalPid",) if "globalPid" in _columns(db, table) else ()
    wrong = " OR ".join(f"typeof({name}) != 'integer'" for name in (*whole, *process))
    if db.execute(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {wrong} OR end < start)").fetchone()[0]:
        raise sqlite3.DataError(f"a row of {table} makes no sense")
    return process[0] if process else "0"


def _calls(db: sqlite3.Connection, tables: set[str]) -> dict[Any, Call]:
    """(process, correlation number) -> thread and time of the API call."""
    if CALLS not in tables:
        return {}
    found = db.execute(f"SELECT globalTid, correlationId, start FROM {CALLS} WHERE typeof(globalTid) = 'integer'")
    return {(thread & PROCESS, correlation): (thread, start) for thread, correlation, start in found}


# Of one thread: when each stretch begins that one range is the innermost of, and which (None: none is open).
Spans = dict[int, tuple[list[int], list[int | None]]]


def _ranges(db: sqlite3.Connection, tables: set[str]) -> tuple[tuple[Range, ...], Spans]:
    if RANGES not in tables:
        return (), {}
    have = _columns(db, RANGES)
    text = "coalesce(e.text, s.value)" if "textId" in have else "e.text"
    join = f"LEFT JOIN {STRINGS} s ON s.id = e.textId" if "textId" in have and STRINGS in tables else ""
    if not join:
        text = "e.text"
    found = db.execute(
        f"SELECT e.globalTid, e.start, e.end, {text} FROM {RANGES} e {join} "
        f"WHERE e.eventType = {PUSH_POP} AND e.end IS NOT NULL ORDER BY e.globalTid, e.start, e.end DESC, e.rowid"
    )
    ranges: list[Range] = []
    spans: Spans = {}
    by_thread: dict[int, list[int]] = defaultdict(list)
    for thread, start, end, name in found:
        by_thread[thread].append(len(ranges))
        ranges.append(Range(str(name or ""), None, "", _whole(thread) & 0xFFFFFF, _whole(start), _whole(end)))
    for thread, places in by_thread.items():
        spans[thread] = _nested(ranges, places)
    return tuple(ranges), spans


def _nested(ranges: list[Range], places: Sequence[int]) -> tuple[list[int], list[int | None]]:
    """Set the parents of one thread's ranges, given in order of their starts; the stretches between their edges."""
    starts: list[int] = []
    owners: list[int | None] = []
    stack: list[int] = []

    def close(until: int | None) -> None:
        while stack and (until is None or ranges[stack[-1]].end_ns <= until):  # type: ignore[operator]
            ended = stack.pop()
            starts.append(ranges[ended].end_ns)  # type: ignore[arg-type]
            owners.append(stack[-1] if stack else None)

    for place in places:
        item = ranges[place]
        close(item.start_ns)
        ranges[place] = Range(
            item.name, stack[-1] if stack else None, item.domain, item.thread, item.start_ns, item.end_ns
        )
        stack.append(place)
        starts.append(item.start_ns)  # type: ignore[arg-type]
        owners.append(place)
    close(None)
    return starts, owners


def _innermost(call: Call | None, spans: Spans) -> int | None:
    if call is None or call[0] not in spans:
        return None
    starts, owners = spans[call[0]]
    at = bisect_right(starts, call[1]) - 1
    return owners[at] if at >= 0 else None


def _provenance(path: Path, db: sqlite3.Connection, tables: set[str], count: int) -> Provenance:
    chip = version = ""
    if "TARGET_INFO_GPU" in tables:
        chip = next(
            (str(name) for (name,) in db.execute("SELECT name FROM TARGET_INFO_GPU ORDER BY rowid LIMIT 1")), ""
        )
    if "META_DATA_EXPORT" in tables:
        facts = {str(name): str(value) for name, value in db.execute("SELECT name, value FROM META_DATA_EXPORT")}
        version = next((value for name, value in facts.items() if "VERSION" in name and "PRODUCT" in name), "")
    about = {"tool_version": version, "chip": chip}
    return files.provenance(path, "Nsight Systems", "nsys SQLite", count, count, "", **about)


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise sqlite3.DataError("a row makes no sense")
    return value


IMPORTER = Importer("Nsight Systems export", recognizes, read)
