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
    if not tables & SELECTS.keys():
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
    selects = [select(db) for table, select in SELECTS.items() if table in tables]
    ordered = f"{' UNION ALL '.join(selects)} ORDER BY 1, 2, 3, 4, 5, 6"
    rows = list(map(Activity._make, db.execute(ordered)))
    untimed = sum(_untimed(db, table) for table in SELECTS if table in tables)
    if not rows:
        what = f"has {untimed} rows, none of them with a time" if untimed else "has no kernels"
        raise files.unusable(path, what, RECORD)
    found, note = _ranges(db, tables)
    if untimed:
        note = f"left out: {untimed} row{'s' * (untimed > 1)} without a time{note.replace('left out: ', ', ')}"
    calls = _calls(db, tables)
    called = [calls.get((row.process & PROCESS, row.correlation)) for row in rows]
    ranges, owners = nvtx_ranges.nested(found, called)
    if nodes := nsys_schema.node_calls(db, tables) if found else {}:
        _, made_in = nvtx_ranges.nested(found, [None if row.node is None else nodes.get(row.node) for row in rows])
        owners = [made if owner is None else owner for owner, made in zip(owners, made_in, strict=True)]
    about = files.provenance(
        path, "Nsight Systems", "nsys SQLite", len(rows), len(rows) + untimed, note, **_about(db, tables, rows)
    )
    launches = _launches(rows, _names(db, tables), owners, called)
    return Profile(about, launches, ranges, waits=_waits(db, tables))


class Activity(NamedTuple):
    """What ran on a GPU: a row of one of the tables in SELECTS.

    process: a global process id, 0 if unknown; correlation: of its API call; kind: its table's place in SELECTS; first,
    second: ids of a kernel's full and short name, the number of a graph or of a copy's direction; node: of a CUDA
    graph, that it was launched as.
    """

    start: int
    length: int
    device: int | None
    stream: int
    process: int
    correlation: Any
    kind: int
    first: Any
    second: Any
    node: int | None
    grid_x: int
    grid_y: int
    grid_z: int
    block_x: int
    block_y: int
    block_z: int
    bytes: int | None


def _launches(
    rows: Sequence[Activity], names: dict[Any, str], owners: Sequence[int | None], called: Sequence[Call | None]
) -> tuple[KernelLaunch, ...]:
    """names: texts by their id."""
    launches = []
    for place, (row, owner, call) in enumerate(zip(rows, owners, called, strict=True)):
        start, length, device, stream, process, _, kind, first, second, _, gx, gy, gz, bx, by, bz, size = row
        grid = block = direction = None
        if kind == 0:
            name = names.get(first) or names.get(second) or f"kernel {first}"
            grid, block = (gx, gy, gz), (bx, by, bz)
        elif kind == 1:
            name = f"graph {first}"
        elif kind == 2:
            direction = memory_operations.direction(first)
            name = memory_operations.copy_name(direction)
        else:
            name = memory_operations.FILL
        launches.append(
            KernelLaunch(
                place, name, KINDS[kind], grid, block, start, length, 1, stream, owner, device=device,
                process=process >> 24 & 0xFFFFFF if process else None, bytes=size, direction=direction,
                called_ns=None if call is None else call[1],
            )
        )  # fmt: skip
    return tuple(launches)


def _kernels(db: sqlite3.Connection) -> str:
    sizes = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ")
    common, have = _checked(db, KERNELS, sizes), nsys_schema.columns(db, KERNELS)
    short = "shortName" if "shortName" in have else "NULL"
    full = "demangledName" if "demangledName" in have else short
    node = "graphNodeId" if "graphNodeId" in have else "NULL"
    return f"SELECT {common}, 0, {full}, {short}, {node}, {', '.join(sizes)}, NULL FROM {KERNELS} WHERE {TIMED}"


def _graphs(db: sqlite3.Connection) -> str:
    return f"SELECT {_checked(db, GRAPHS)}, 1, graphId, {_NULLS}, NULL FROM {GRAPHS} WHERE {TIMED}"


def _copies(db: sqlite3.Connection) -> str:
    common = _checked(db, COPIES, ("bytes", "copyKind"))
    return f"SELECT {common}, 2, copyKind, {_NULLS}, bytes FROM {COPIES} WHERE {TIMED}"


def _fills(db: sqlite3.Connection) -> str:
    return f"SELECT {_checked(db, FILLS, ('bytes',))}, 3, NULL, {_NULLS}, bytes FROM {FILLS} WHERE {TIMED}"


# CUPTI gives 0 for both times where it could not take them, and clocks that were set against each other may cross.
TIMED = "end >= start AND (start != 0 OR end != 0)"
_NULLS = ", ".join(["NULL"] * 8)  # second name, node, sizes
SELECTS = {KERNELS: _kernels, GRAPHS: _graphs, COPIES: _copies, FILLS: _fills}
KINDS = (RowKind.KERNEL, RowKind.GRAPH, RowKind.COPY, RowKind.FILL)


def _names(db: sqlite3.Connection, tables: set[str]) -> dict[Any, str]:
    """Texts by their id, those that kernels are called by."""
    if KERNELS not in tables:
        return {}
    used = nsys_schema.columns(db, KERNELS) & {"demangledName", "shortName"}
    ids = " UNION ".join(f"SELECT {column} FROM {KERNELS}" for column in sorted(used)) or "NULL"
    return dict(db.execute(f"SELECT id, value FROM {STRINGS} WHERE id IN ({ids}) AND typeof(value) = 'text'"))


def _checked(db: sqlite3.Connection, table: str, whole: Sequence[str] = ()) -> str:
    """The first columns of `Activity`; GPU and process are not in every version. whole: what else has to be an integer.
    Raises sqlite3.DataError for rows without sense."""
    have = nsys_schema.columns(db, table)
    there = [name for name in ("globalPid", "deviceId") if name in have]
    wrong = " OR ".join(f"typeof({name}) != 'integer'" for name in ("start", "end", "streamId", *whole, *there))
    if db.execute(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {wrong})").fetchone()[0]:
        raise sqlite3.DataError(f"a row of {table} makes no sense")
    device, process = ("deviceId" if "deviceId" in have else "NULL"), ("globalPid" if "globalPid" in have else "0")
    return f"start, end - start, {device}, streamId, {process}, correlationId"


def _untimed(db: sqlite3.Connection, table: str) -> int:
    return db.execute(f"SELECT count(*) FROM {table} WHERE NOT ({TIMED})").fetchone()[0]


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
    styles = ", ".join(map(str, STYLES))
    whole = " OR ".join(f"typeof({name}) != 'integer'" for name in ("start", "end", "globalTid"))
    if db.execute(
        f"SELECT EXISTS (SELECT 1 FROM {RANGES} WHERE eventType IN ({styles}) AND end IS NOT NULL AND ({whole}))"
    ).fetchone()[0]:
        raise sqlite3.DataError(f"a row of {RANGES} makes no sense")
    domains = {
        number: str(name)
        for name, number in db.execute(f"SELECT {text}, {domain} FROM {RANGES} e {join} WHERE e.eventType = {DOMAIN}")
        if name is not None
    }
    rows = db.execute(
        f"SELECT e.start, e.end, e.globalTid, {text}, e.eventType, {domain} FROM {RANGES} e {join} "
        f"WHERE e.eventType IN ({styles}) AND e.end IS NOT NULL ORDER BY e.rowid"
    )
    found = [
        NvtxRange(start, end, thread, "" if name is None else str(name), STYLES[kind], domains.get(number, ""))
        for start, end, thread, name, kind, number in rows
    ]
    marks, endless = db.execute(
        f"SELECT sum(eventType = {MARK}), sum(eventType IN ({styles}) AND end IS NULL) FROM {RANGES}"
    ).fetchone()
    lost = ((marks or 0, "mark", ""), (endless or 0, "range", " without an end"))
    said = [f"{count} NVTX {what}{'s' * (count > 1)}{which}" for count, what, which in lost if count]
    return found, f"left out: {', '.join(said)}" if said else ""


def _about(db: sqlite3.Connection, tables: set[str], rows: Sequence[Activity]) -> dict[str, Any]:
    """Version, GPUs by number, and the names of those that something ran on, the busiest first."""
    busy: Counter[tuple[int, int]] = Counter()
    for row in rows:
        if row.device is not None:
            busy[row.process, row.device] += row.length
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
