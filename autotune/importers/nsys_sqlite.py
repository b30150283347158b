"""Nsight Systems' SQLite exports (`nsys export --type sqlite`): kernels, CUDA graphs, copies and fills, and the NVTX
ranges around them.

The schema is the one of NVIDIA's exporter documentation (nsys-exporter, 2022.4 to 2026); `nsys_schema` has what differs
between years. A kernel belongs to the innermost range that its launch was called in, found by the correlation number
of the API call: so time is counted once, however ranges nest. One of a graph that was launched in no range belongs to
the range that it was captured in. A graph traced as a whole has its time in a table of its own, and no kernels.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from autotune.importers import files, memory_operations, nsys_schema, nvtx_ranges
from autotune.importers.importer import Importer
from autotune.importers.nvtx_ranges import PROCESS, Call, NvtxRange
from tuning_db.profile_records import PUSH_POP, START_END, HostWait, KernelLaunch, Profile, RowKind

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
    tables = nsys_schema.tables(db)
    if not tables & READERS.keys():
        if tables & {nsys_schema.GRAPH_EVENTS, nsys_schema.NODES}:
            raise files.unusable(path, "has CUDA graphs and none of their kernels", f"{RECORD} --cuda-graph-trace node")
        if tables & {CALLS, RANGES, *nsys_schema.VERSIONS}:
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
    called = [calls.get((row.when.process & PROCESS, row.when.correlation)) for row in rows]
    ranges, owners = nvtx_ranges.nested(found, called)
    if nodes := nsys_schema.node_calls(db, tables) if found else {}:
        _, made_in = nvtx_ranges.nested(found, [None if row.node is None else nodes.get(row.node) for row in rows])
        owners = [made if owner is None else owner for owner, made in zip(owners, made_in, strict=True)]
    about = files.provenance(
        path, "Nsight Systems", "nsys SQLite", len(rows), len(rows), note, **_about(db, tables, rows)
    )
    launches = tuple(_launch(place, *row) for place, row in enumerate(zip(rows, owners, called, strict=True)))
    return Profile(about, launches, ranges, waits=_waits(db, tables))


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
    """What ran on a GPU. node: of a CUDA graph, that it was launched as."""

    when: When
    name: str
    kind: RowKind
    grid: tuple[int, int, int] | None = None
    block: tuple[int, int, int] | None = None
    bytes: int | None = None
    direction: str | None = None
    node: int | None = None


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
    short = "shortName" if "shortName" in nsys_schema.columns(db, KERNELS) else "NULL"
    full = "demangledName" if "demangledName" in nsys_schema.columns(db, KERNELS) else short
    either = f"SELECT {full} FROM {KERNELS} UNION SELECT {short} FROM {KERNELS}"
    names = dict(db.execute(f"SELECT id, value FROM {STRINGS} WHERE id IN ({either})"))
    node = "graphNodeId" if "graphNodeId" in nsys_schema.columns(db, KERNELS) else "NULL"
    found = db.execute(f"SELECT {common}, {', '.join(sizes)}, {full}, {short}, {node} FROM {KERNELS}")
    rows = []
    for row in found:
        *_, full_name, short_name, graph_node = row
        name, grid, block = _name(names, full_name, short_name), row[COMMON:-6], row[-6:-3]
        rows.append(Activity(When._make(row[:COMMON]), name, RowKind.KERNEL, grid, block, node=graph_node))
    return rows


def _name(names: dict[Any, Any], full: Any, short: Any) -> str:
    """The demangled name; the function's alone, or a number, where there is none."""
    name = names.get(full) or names.get(short)
    return name if isinstance(name, str) else f"kernel {full}"


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
    have = nsys_schema.columns(db, table)
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
    if not {CALLS, STRINGS} <= tables or "nameId" not in nsys_schema.columns(db, CALLS):
        return ()
    found = db.execute(
        f"SELECT s.value, r.start, r.end, r.globalTid FROM {CALLS} r JOIN {STRINGS} s ON s.id = r.nameId "
        "WHERE s.value GLOB 'cu*Synchronize*' AND typeof(s.value) = 'text' AND typeof(r.globalTid) = 'integer' "
        "ORDER BY r.start, r.end"
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
    have = nsys_schema.columns(db, RANGES)
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


def _about(db: sqlite3.Connection, tables: set[str], rows: Sequence[Activity]) -> dict[str, Any]:
    """Version, GPUs by number, and the names of those that something ran on, the busiest first."""
    busy: Counter[tuple[int, int]] = Counter()
    for row in rows:
        if row.when.device is not None:
            busy[row.when.process, row.when.device] += row.when.length
    named = nsys_schema.gpu_names(db, tables, busy)
    devices: dict[int, str] = {}
    for (_, device), name in named.items():
        if name not in devices.setdefault(device, name).split(" or "):  # another process's GPU of the same number
            devices[device] += f" or {name}"
    names = dict.fromkeys(named[key] for key, _ in busy.most_common() if key in named)
    chip = ", ".join(names) or nsys_schema.only_gpu(db, tables)
    return {"tool_version": nsys_schema.version(db, tables), "chip": chip, "devices": devices}


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise sqlite3.DataError("a row makes no sense")
    return value


IMPORTER = Importer("Nsight Systems export", recognizes, read)
