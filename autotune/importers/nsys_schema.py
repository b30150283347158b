"""What differs between the years of Nsight Systems' SQLite exports: names of tables, GPUs, and the tool's version.

| year | GPUs | version |
|---|---|---|
| 2020 to early 2021 | TARGET_INFO_CUDA_GPU, by the kernels' deviceId | EXPORT_META_DATA |
| 2021, 2022 | TARGET_INFO_GPU, by its id | EXPORT_META_DATA |
| since 2023 | TARGET_INFO_GPU, by TARGET_INFO_CUDA_DEVICE (cudaId of a process, gpuId) | META_DATA_EXPORT |

A table whose columns changed may have a suffix, "NVTX_EVENTS_V2". CUDA_GRAPH_EVENTS and CUDA_GRAPH_NODE_EVENTS say when
a graph and its nodes were made; a kernel of a graph has the number of its node.
"""

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

VERSIONS = ("META_DATA_EXPORT", "EXPORT_META_DATA")
NODES, GRAPH_EVENTS = "CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"
GPUS, OLD_GPUS, CUDA_DEVICES = "TARGET_INFO_GPU", "TARGET_INFO_CUDA_GPU", "TARGET_INFO_CUDA_DEVICE"
_SUFFIXED = re.compile(r"([A-Z][A-Z0-9_]*?)_V(\d+)")
_LONGEST_CHAIN = 8  # clones of clones of a graph's node that are followed

# (a global process id without its thread, device as kernels have it) -> the name of the GPU.
Device = tuple[int, int]


def tables(db: sqlite3.Connection) -> set[str]:
    """Names of the tables, without the suffix of their version: from here on a name is that of the newest with rows.

    Each name is there three times over, so that a damaged one is seen, and not just missed: sqlite3.DatabaseError.
    """
    found: set[str] = set()
    for name, table, sql in db.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'table'"):
        if name != table or name not in str(sql):
            raise sqlite3.DatabaseError(f"the table {name!r} has several names")
        found.add(name)
    versions: dict[str, list[tuple[bool, int, str]]] = {}
    for name in found:
        if suffixed := _SUFFIXED.fullmatch(name):
            filled = bool(db.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0])
            versions.setdefault(suffixed[1], []).append((filled, int(suffixed[2]), name))
    for plain, candidates in versions.items():
        filled, _, newest = max(candidates)
        if filled or plain not in found:
            db.execute(f'CREATE TEMP VIEW "{plain}" AS SELECT rowid, * FROM main."{newest}"')
    return found | versions.keys()


def columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def version(db: sqlite3.Connection, have: set[str]) -> str:
    """Of the program that exported; where an export has that of its schema only, "schema 3.24.14"; "" if unknown."""
    facts: dict[str, str] = {}
    for table in VERSIONS:
        if table in have and {"name", "value"} <= {column.lower() for column in columns(db, table)}:
            for name, value in db.execute(f"SELECT name, value FROM {table}"):
                facts.setdefault(str(name), "" if value is None else str(value).strip())
    if product := facts.get("EXPORT_PRODUCT_VERSION"):
        return product
    parts = [facts.get(f"EXPORT_SCHEMA_VERSION_{part}", "") for part in ("MAJOR", "MINOR", "MICRO")]
    schema = facts.get("EXPORT_SCHEMA_VERSION") or ".".join(part for part in parts if part)
    return f"schema {schema}" if schema else ""


def gpu_names(db: sqlite3.Connection, have: set[str], used: Mapping[Device, int]) -> dict[Device, str]:
    """Names of the GPUs that something ran on, as far as the export names them. used: the devices, of each process."""
    by_gpu = _gpus(db, have)
    by_process = _numbered(db, have)
    found = {}
    for process, device in used:
        pid = process >> 24 & 0xFFFFFF
        mapped = by_process.get((pid, device)) or {
            gpu for (_, cuda), gpus in by_process.items() if cuda == device for gpu in gpus
        }
        names = {by_gpu[gpu] for gpu in (mapped or {device}) if gpu in by_gpu}
        if len(names) == 1:
            found[process, device] = next(iter(names))
    return found


def only_gpu(db: sqlite3.Connection, have: set[str]) -> str:
    """The name that all GPUs of the machine have; "" if there are several, or none is named."""
    names = set(_gpus(db, have).values())
    return next(iter(names)) if len(names) == 1 else ""


def node_calls(db: sqlite3.Connection, have: set[str]) -> dict[int, tuple[int, int]]:
    """Thread and time at which each node of a graph was made, by its number; of a clone, when its original was."""
    if NODES not in have or not {"graphNodeId", "globalTid", "start"} <= columns(db, NODES):
        return {}
    original = "originalGraphNodeId" if "originalGraphNodeId" in columns(db, NODES) else "NULL"
    known = " AND ".join(f"typeof({name}) = 'integer'" for name in ("graphNodeId", "globalTid", "start"))
    rows = db.execute(f"SELECT graphNodeId, globalTid, start, {original} FROM {NODES} WHERE {known}")
    made = {node: (thread, start, source) for node, thread, start, source in rows}
    calls = {}
    for node in made:
        at: Any = node
        for _ in range(_LONGEST_CHAIN):
            source = made[at][2]
            if source is None or source not in made or source == at:
                break
            at = source
        calls[node] = made[at][:2]
    return calls


def _gpus(db: sqlite3.Connection, have: set[str]) -> dict[int, str]:
    return _named(db, GPUS, "id", have) or _named(db, OLD_GPUS, "deviceId", have) or _named(db, OLD_GPUS, "id", have)


def _named(db: sqlite3.Connection, table: str, number: str, have: set[str]) -> dict[int, str]:
    if table not in have or not {number, "name"} <= columns(db, table):
        return {}
    rows = db.execute(f"SELECT {number}, name FROM {table} WHERE typeof({number}) = 'integer' AND name IS NOT NULL")
    return {gpu: str(name) for gpu, name in rows}


def _numbered(db: sqlite3.Connection, have: set[str]) -> dict[tuple[int, int], set[int]]:
    """(process, its CUDA device) -> GPUs: CUDA_VISIBLE_DEVICES gives a process numbers of its own."""
    if CUDA_DEVICES not in have or not {"gpuId", "cudaId"} <= columns(db, CUDA_DEVICES):
        return {}
    pid = "pid" if "pid" in columns(db, CUDA_DEVICES) else "0"
    found: dict[tuple[int, int], set[int]] = {}
    for process, cuda, gpu in db.execute(f"SELECT {pid}, cudaId, gpuId FROM {CUDA_DEVICES}"):
        found.setdefault((process, cuda), set()).add(gpu)
    return found
