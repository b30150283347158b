"""Nsight Systems' SQLite exports (`nsys export --type sqlite`): kernels, CUDA graphs, copies and fills, and the NVTX
ranges around them.

The schema is the one of NVIDIA's exporter documentation (nsys-exporter, 2022.4 to 2025); columns that came and went are
asked for first. A kernel belongs to the innermost range that its launch was called in, found by the correlation number
of the API call: so time is counted once, however ranges nest. A graph captured at graph level has its time in a table
of its own, and no kernels.
"""

import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from autotune.importers import files, memory_operations, nvtx_ranges
from autotune.importers.importer import Importer
from autotune.importers.nvtx_ranges import PROCESS, Call, NvtxRange
from tuning_db.profile_records import PUSH_POP, START_END, HostWait, KernelLaunch, Profile, Provenance, RowKind

MAGIC = b"SQLite format 3\0"
KERNELS, GRAPHS = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
COPIES, FILLS = "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET"
CALLS, RANGES, STRINGS = "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS", "StringIds"
MARK, DOMAIN = 34, 75  # NVTX_EVENTS.eventType
STYLES = {59: PUSH_POP, 60: START_END}
AGAIN = "export it again"
RECORD = "record with nsys profile --trace cuda,nvtx"


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
    if not tables & READERS.keys():
        if tables & {CALLS, RANGES, "META_DATA_EXPORT"}:
            raise files.unusable(path, "has no kernels", RECORD)
        raise files.unusable(path, "is no export of Nsight Systems", "give one made by nsys export --type sqlite")
    # A cut file: SQLite itself would notice only when it comes to a page that is missing.
    pages, size = db.execute("PRAGMA page_count").fetchone()[0], db.execute("PRAGMA page_size").fetchone()[0]
    if pages * size != path.stat().st_size:
        raise files.unusable(path, "is damaged: its size is not what its header says", AGAIN)
    finding = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise files.unusable(path, f"is damaged ({' '.join(str(finding).split())})", AGAIN)
    rows = [row for table, reader in READERS.items() if table in tables for row in reader(db)]
    if not rows:
        raise files.unusable(path, "has no kernels", RECORD)
    rows.sort(key=itemgetter(0, 1))
    found, note = _ranges(db, tables)
    calls = _calls(db, tables)
    called = [calls.get((when.process & PROCESS, when.correlation)) for when, *_ in rows]
    ranges, owners = nvtx_ranges.nested(found, called)
    launches = tuple(
        _launch(place, row, owner, call)
        for place, (row, owner, call) in enumerate(zip(rows, owners, called, strict=True))
    )
    waits = _waits(db, tables)
    return Profile(_provenance(path, db, tables, len(launches), note), launches, ranges, waits=waits)


def _tables(db: sqlite3.Connection) -> set[str]:
    """Names of the tables. Each is there three times over, so that a damaged one is seen, and not just missed."""
    found = set()
    for name, table, sql in db.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'table'"):
        if name != table or name not in str(sql):
            raise sqlite3.DatabaseError(f"the table {name!r} has several names")
        found.add(name)
    return found


class When(NamedTuple):
    """When and where something ran. process: a global process id, 0 if unknown; correlation: of its API call."""

    start: int
    length: int
    device: int | None
    stream: int
    process: int
    correlation: Any


COMMON = len(When._fields)


class Activity(NamedTuple):
    """What ran on a GPU."""

    when: When
    name: str
    kind: RowKind
    grid: tuple[int, int, int] | None = None
    block: tuple[int, int, int] | None = None
    bytes: int | None = None
    direction: str | None = None


def _launch(place: int, row: Activity, owner: int | None, call: Call | None) -> KernelLaunch:
    when = row.when
    return KernelLaunch(
        place, row.name, row.kind, row.grid, row.block, when.start, when.length, 1, when.stream, owner,
        device=when.device, process=when.process >> 24 & 0xFFFFFF if when.process else None, bytes=row.bytes,
        direction=row.direction, called_ns=None if call is None else call[1],
    )  # fmt: skip


def _kernels(db: sqlite3.Connection) -> list[Activity]:
    sizes = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ")
    common = _checked(db, KERNELS, sizes)
    name = "demangledName" if "demangledName" in _columns(db, KERNELS) else "shortName"
    names = dict(db.execute(f"SELECT id, value FROM {STRINGS} WHERE id IN (SELECT {name} FROM {KERNELS})"))
    found = db.execute(f"SELECT {common}, {', '.join(sizes)}, {name} FROM {KERNELS}")
    return [
        Activity(When._make(row[:COMMON]), _name(names, row[-1]), RowKind.KERNEL, row[COMMON:-4], row[-4:-1])
        for row in found
    ]


def _name(names: dict[Any, Any], number: Any) -> str:
    name = names.get(number)
    return name if isinstance(name, str) else f"kernel {number}"


def _graphs(db: sqlite3.Connection) -> list[Activity]:
    found = db.execute(f"SELECT {_checked(db, GRAPHS)}, graphId FROM {GRAPHS}")
    return [Activity(When._make(row[:COMMON]), f"graph {row[-1]}", RowKind.GRAPH) for row in found]


def _copies(db: sqlite3.Connection) -> list[Activity]:
    rows = []
    for *when, size, number in db.execute(
        f"SELECT {_checked(db, COPIES, ('bytes', 'copyKind'))}, bytes, copyKind FROM {COPIES}"
    ):
        way = memory_operations.direction(number)
        name = memory_operations.copy_name(way)
        rows.append(Activity(When._make(when), name, RowKind.COPY, bytes=size, direction=way))
    return rows


def _fills(db: sqlite3.Connection) -> list[Activity]:
    found = db.execute(f"SELECT {_checked(db, FILLS, ('bytes',))}, bytes FROM {FILLS}")
    name = memory_operations.FILL
    return [Activity(When._make(when), name, RowKind.FILL, bytes=size) for *when, size in found]


READERS = {KERNELS: _kernels, GRAPHS: _graphs, COPIES: _copies, FILLS: _fills}


def _checked(db: sqlite3.Connection, table: str, whole: Sequence[str] = ()) -> str:
    """The columns of `When`; GPU and process are not in every version. whole: what else has to be an integer. Raises
    sqlite3.DataError for rows without sense."""
    have = _columns(db, table)
    there = [name for name in ("globalPid", "deviceId") if name in have]
    wrong = " OR ".join(f"typeof({name}) != 'integer'" for name in ("start", "end", "streamId", *whole, *there))
    if db.execute(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {wrong} OR end < start)").fetchone()[0]:
        raise sqlite3.DataError(f"a row of {table} makes no sense")
    device, process = ("deviceId" if "deviceId" in have else "NULL"), ("globalPid" if "globalPid" in have else "0")
    return f"start, end - start, {device}, streamId, {process}, correlationId"


def _calls(db: sqlite3.Connection, tables: set[str]) -> dict[Any, Call]:
    """(process, correlation number) -> thread and time of the API call."""
    if CALLS not in tables:
        return {}
    found = db.execute(f"SELECT globalTid, correlationId, start FROM {CALLS} WHERE typeof(globalTid) = 'integer'")
    return {(thread & PROCESS, correlation): (thread, start) for thread, correlation, start in found}


def _waits(db: sqlite3.Connection, tables: set[str]) -> tuple[HostWait, ...]:
    """Calls in which the host waited for a GPU, by the names that CUDA's two interfaces give them."""
    if not {CALLS, STRINGS} <= tables or "nameId" not in _columns(db, CALLS):
        return ()
    found = db.execute(
        f"SELECT s.value, r.start, r.end, r.globalTid FROM {CALLS} r JOIN {STRINGS} s ON s.id = r.nameId "
        f"WHERE s.value GLOB 'cu*Synchronize*' AND typeof(r.globalTid) = 'integer' ORDER BY r.start, r.rowid"
    )
    return tuple(
        HostWait(name.partition("_v")[0], _whole(start), max(_whole(end), start), thread >> 24 & 0xFFFFFF,
                 thread & 0xFFFFFF)
        for name, start, end, thread in found
    )  # fmt: skip


def _ranges(db: sqlite3.Connection, tables: set[str]) -> tuple[list[NvtxRange], str]:
    """The ranges, and what was left out in words."""
    if RANGES not in tables:
        return [], ""
    have = _columns(db, RANGES)
    text, join = "e.text", ""
    if "textId" in have and STRINGS in tables:
        text, join = "coalesce(e.text, s.value)", f"LEFT JOIN {STRINGS} s ON s.id = e.textId"
    domain = "e.domainId" if "domainId" in have else "NULL"
    rows = db.execute(
        f"SELECT e.eventType, e.globalTid, e.start, e.end, {text}, {domain} FROM {RANGES} e {join} "
        f"WHERE e.eventType IN ({MARK}, {DOMAIN}, {', '.join(map(str, STYLES))}) ORDER BY e.rowid"
    ).fetchall()
    domains = {number: str(name) for kind, _, _, _, name, number in rows if kind == DOMAIN and name is not None}
    found, marks, endless = [], 0, 0
    for kind, thread, start, end, name, number in rows:
        style = STYLES.get(kind)
        if style is None or end is None:
            marks += kind == MARK
            endless += style is not None
            continue
        named = "" if name is None else str(name)
        found.append(NvtxRange(_whole(start), _whole(end), _whole(thread), named, style, domains.get(number, "")))
    lost = ((marks, "mark", ""), (endless, "range", " without an end"))
    said = [f"{count} NVTX {what}{'s' * (count > 1)}{which}" for count, what, which in lost if count]
    return found, f"left out: {', '.join(said)}" if said else ""


def _provenance(path: Path, db: sqlite3.Connection, tables: set[str], count: int, note: str) -> Provenance:
    chip = version = ""
    devices: dict[int, str] = {}
    if "TARGET_INFO_GPU" in tables:
        chip = next(
            (str(name) for (name,) in db.execute("SELECT name FROM TARGET_INFO_GPU ORDER BY rowid LIMIT 1")), ""
        )
        numbered = db.execute("SELECT id, name FROM TARGET_INFO_GPU WHERE typeof(id) = 'integer' AND name IS NOT NULL")
        devices = {number: str(name) for number, name in numbered}
    if "META_DATA_EXPORT" in tables:
        facts = {str(name): str(value) for name, value in db.execute("SELECT name, value FROM META_DATA_EXPORT")}
        version = next((value for name, value in facts.items() if "VERSION" in name and "PRODUCT" in name), "")
    about = {"tool_version": version, "chip": chip, "devices": devices}
    return files.provenance(path, "Nsight Systems", "nsys SQLite", count, count, note, **about)


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise sqlite3.DataError("a row makes no sense")
    return value


IMPORTER = Importer("Nsight Systems export", recognizes, read)
