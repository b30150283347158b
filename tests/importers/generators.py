"""Files of the profilers that no machine of ours can record, or not this large, made from their documented schemas.

Nsight Systems' SQLite: the tables and columns of NVIDIA's exporter documentation (docs.nvidia.com/nsight-systems,
"SQLite Schema Reference"), those that matter for kernels; global thread ids hold the process above their lowest 24
bits. CSV of `nsys stats`: the columns of its reports cuda_gpu_trace and cuda_gpu_kern_sum in 2025. Nsight
Compute's CSV: as the recorded fixtures have it. Helion's log: the columns that its sources of 2026 write.
"""

import csv
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROCESS = 0x0001_0000_4200_0000  # a global process id
THREAD = PROCESS | 4242

SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT);
CREATE TABLE TARGET_INFO_GPU (id INTEGER NOT NULL, name TEXT, smCount INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
    globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER, gridX INTEGER NOT NULL,
    gridY INTEGER NOT NULL, gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL,
    blockZ INTEGER NOT NULL, registersPerThread INTEGER NOT NULL, graphNodeId INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
    text TEXT, globalTid INTEGER, domainId INTEGER, textId INTEGER);
"""
COPIES = """
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
    value INTEGER NOT NULL, bytes INTEGER NOT NULL, memKind INTEGER NOT NULL);
"""
GRAPHS = """
CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
    graphId INTEGER NOT NULL, contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER,
    globalPid INTEGER, graphExecId INTEGER);
"""


@dataclass(frozen=True)
class Kernel:
    """called: when its launch was called on the host; start, end: on the GPU, in ns; graph: a whole graph's."""

    name: str
    called: int
    start: int
    end: int
    grid: int = 8
    threads: int = 128
    graph: bool = False
    thread: int = THREAD
    device: int = 0


@dataclass(frozen=True)
class Copy:
    """A copy of memory, or a fill where `kind` is None; kind: of the export's copy kinds, 1 for host to device."""

    called: int
    start: int
    end: int
    bytes: int
    kind: int | None = 1
    device: int = 0
    thread: int = THREAD


def nsys_sqlite(
    path: Path, kernels: Sequence[Kernel], ranges: Sequence[tuple[str, int, int]], copies: Sequence[Copy] = (),
    waits: Sequence[tuple[int, int]] = (),
) -> Path:  # fmt: skip
    """ranges: (name, start, end) of NVTX ranges on the host, all of THREAD, as are waits: (start, end) of calls that
    wait for a stream."""
    db = sqlite3.connect(path)
    db.executescript(SCHEMA + (GRAPHS if any(k.graph for k in kernels) else "") + (COPIES if copies else ""))
    names = {name: number for number, name in enumerate({k.name: 0 for k in kernels} | {r[0]: 0 for r in ranges}, 1)}
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(number, name) for name, number in names.items()])
    db.execute("INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_VERSION', '2025.3.1')")
    db.execute("INSERT INTO TARGET_INFO_GPU VALUES (0, 'NVIDIA H100 80GB HBM3', 132)")
    for number, k in enumerate(kernels):
        call = (k.called, k.called + 900, 0, k.thread, number, 1, 0)
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?, ?)", call)
        if k.graph:
            row = (k.start, k.end, 0, 7, 1, 7, number, PROCESS, 8)
            db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        else:
            name, sizes = names[k.name], (k.grid, 1, 1, k.threads, 1, 1)
            row = (k.start, k.end, k.device, 1, 7, number, k.thread & -1 << 24, name, name, name, *sizes, 32, None)
            db.execute(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({', '.join('?' * len(row))})", row)
    for number, c in enumerate(copies, len(kernels)):
        call = (c.called, c.called + 900, 0, c.thread, number, 1, 0)
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?, ?)", call)
        where = (c.start, c.end, c.device, 1, 7, number, c.thread & -1 << 24)
        table, rest = ("MEMSET", (0, c.bytes, 2)) if c.kind is None else ("MEMCPY", (c.bytes, c.kind))
        marks = ", ".join("?" * len(where + rest))
        db.execute(f"INSERT INTO CUPTI_ACTIVITY_KIND_{table} VALUES ({marks})", where + rest)
    db.execute("INSERT INTO StringIds VALUES (-1, 'cudaStreamSynchronize_v3020')")
    for number, (start, end) in enumerate(waits, len(kernels) + len(copies)):
        call = (start, end, 0, THREAD, number, -1, 0)
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?, ?)", call)
    for name, start, end in ranges:
        db.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, NULL, NULL, ?, 0, ?)", (start, end, THREAD, names[name]))
    db.commit()
    db.close()
    return path


def many_kernels(count: int, seed: int = 0) -> tuple[list[Kernel], list[tuple[str, int, int]]]:
    """`count` kernels of random lengths, launched within tokens, layers and operations that nest three deep."""
    draw = random.Random(seed)
    kernels, ranges, now, gpu = [], [], 1_000, 50_000
    operations = ("qkv", "attention", "out", "gate_up", "down")
    while len(kernels) < count:
        token = now
        for layer in range(4):
            began = now
            for name in operations:
                opened = now
                for _ in range(draw.randint(1, 2)):
                    now += draw.randint(900, 3000)
                    gpu += draw.randint(0, 500)
                    length = draw.randint(700, 9000)
                    kernels.append(Kernel(f"kernel_{name}", now, gpu, gpu + length))
                    gpu += length
                now += 1000
                ranges.append((name, opened, now))
            ranges.append((f"layer {layer}", began, now))
        now += 10
        kernels.append(Kernel("between", now, gpu, gpu + 100))  # in the token, in no layer
        gpu += 100
        now += 1000
        ranges.append(("token", token, now))
        now += 50
        kernels.append(Kernel("outside", now, gpu, gpu + 100))  # in no range
        gpu += 100
        now += 1000
    return kernels[:count], ranges


def ncu_raw_csv(path: Path, launches: int, metrics: int, seed: int = 0) -> Path:
    """A large `--page raw` CSV, units scaled as by default."""
    draw = random.Random(seed)
    units = ("Kbyte", "%", "us", "inst", "Ghz", "Gbyte/s", "", "sector")
    describing = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Block Size"]
    describing += ["Grid Size", "Device", "CC"]
    names = ["gpu__time_duration.sum", *(f"sm__made_up_{i}.avg" for i in range(1, metrics))]
    with path.open("w", newline="") as file:
        file.write("==PROF== Connected to process 1\n")
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(describing + names)
        table.writerow([""] * len(describing) + ["us", *(units[i % len(units)] for i in range(1, metrics))])
        for number in range(launches):
            values = [f"{draw.uniform(0.5, 5e6):,.2f}" for _ in names]
            head = [number, 1, "python3", "host", f"kernel_{number % 7}", 1, 7, "(128, 1, 1)", "(8, 2, 1)", 0, "9.0"]
            table.writerow(head + values)
    return path


def nsys_trace_csv(path: Path, kernels: Sequence[Kernel]) -> Path:
    header = (
        "Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Reg/Trd,StcSMem (MB),DymSMem (MB),Bytes (MB),"
        "Throughput (MB/s),SrcMemKd,DstMemKd,Device,Ctx,GreenCtx,Strm,Name"
    )
    lines = [header]
    for number, k in enumerate(kernels):
        sizes = f"{k.grid},1,1,{k.threads},1,1,32,0.000,0.000"
        lines.append(f"{k.start},{k.end - k.start},{number},{sizes},,,,,NVIDIA H100 (0),1,,7,{k.name}")
    lines.append("1,2,999,,,,,,,,,,0.004,100.0,Pageable,Device,NVIDIA H100 (0),1,,7,[CUDA memcpy Host-to-Device]")
    path.write_text("\n".join(lines) + "\n")
    return path


def nsys_summary_csv(path: Path, kernels: Sequence[Kernel]) -> Path:
    by_name: dict[str, list[int]] = {}
    for k in kernels:
        by_name.setdefault(k.name, []).append(k.end - k.start)
    lines = ["Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name"]
    for name, times in by_name.items():
        lines.append(f"1.0,{sum(times)},{len(times)},1.0,1.0,{min(times)},{max(times)},0.0,{name}")
    path.write_text("\n".join(lines) + "\n")
    return path


def helion_csv(path: Path) -> Path:
    header = "run_id,timestamp_s,config_id,generation,status,perf_ms,compile_time_s,config"
    configs = [f"\"helion.Config(block_sizes=[{2**i}, 64], num_warps={i}, pid_type='flat')\"" for i in range(1, 5)]
    lines = [header]
    for number, config in enumerate(configs):
        lines.append(f"r,{number}.00,c{number},0,started,,,{config}")
        status, perf = ("error", "") if number == 2 else ("ok", f"{0.1 * (number + 1):.6f}")
        lines.append(f"r,{number}.50,c{number},0,{status},{perf},0.40,{config}")
    path.write_text("\n".join(lines) + "\n")
    return path
