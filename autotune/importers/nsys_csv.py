"""The CSV of `nsys stats`: every report that it prints, one or several in a file.

cuda_gpu_trace has a row for each kernel, copy and fill, and cuda_kern_exec_trace one for each kernel with its call; the
sums have one for all that are alike. Kernels are taken from the most detailed report in the file, copies and fills too;
every report but the trace is kept as a table as well.
Columns have their unit in parentheses; versions of 2019 to 2021 spell them "Time(%)", "Start(nsec)" or leave the unit
out, and have other names for the same reports.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from autotune.importers import csv_tables, files, memory_operations, units
from autotune.importers.csv_tables import Table
from autotune.importers.importer import Importer
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import KernelLaunch, Profile, ReportTable, RowKind

TRACE = "cuda_gpu_trace"
AGAIN = "export it again with nsys stats --format csv"
NO_END = f"a CSV has {files.NO_END}: rows missing after the last one would not be noticed"
# The first of these that a file has tells its kernels, and its copies and fills.
CALLED, CALLED_SUM = "cuda_kern_exec_trace", "cuda_kern_exec_sum"
KERNELS = (
    TRACE, CALLED, "cuda_gpu_kern_gb_sum", "cuda_gpu_kern_sum", "cuda_gpu_sum", "cuda_api_gpu_sum", CALLED_SUM,
)  # fmt: skip
MEMORY = (TRACE, "cuda_gpu_mem_time_sum", "cuda_gpu_sum", "cuda_api_gpu_sum", "cuda_gpu_mem_size_sum")
SIZES = "cuda_gpu_mem_size_sum"
COUNTS = ("Instances", "Count", "Operations", "Num Calls", "Calls")
TITLES = {
    TRACE: "Kernels, copies and fills in time",
    "cuda_gpu_kern_gb_sum": "Time of kernels by grid and block",
    "cuda_gpu_kern_sum": "Time of kernels",
    "cuda_gpu_mem_time_sum": "Time of copies and fills",
    SIZES: "Bytes of copies and fills",
    "cuda_gpu_sum": "Time of kernels, copies and fills",
    "cuda_api_gpu_sum": "Time of API calls, kernels, copies and fills",
    "cuda_api_sum": "Time of CUDA API calls",
    "cuda_api_trace": "CUDA API calls in time",
    CALLED_SUM: "Time of kernels from their launch: call, queue and execution",
    CALLED: "Kernels from their launch: call, queue and execution",
    "nvtx_sum": "Time of NVTX ranges, on the host",
    "nvtx_pushpop_sum": "Time of pushed NVTX ranges, on the host",
    "nvtx_startend_sum": "Time of started NVTX ranges, on the host",
    "nvtx_pushpop_trace": "Pushed NVTX ranges in time, on the host",
    "nvtx_kern_sum": "Time of kernels by the NVTX range that launched them",
    "nvtx_gpu_proj_sum": "Time of NVTX ranges, on the GPU",
    "nvtx_gpu_proj_trace": "NVTX ranges in time, on the GPU",
    "osrt_sum": "Time of calls of the operating system",
    "um_sum": "Unified memory: migrations and page faults",
    "um_total_sum": "Unified memory: all migrations and page faults",
    "mpi_event_sum": "Time of MPI events, on the host",
}
# What they were called until 2022.
_OLD_NAMES = {
    "gputrace": TRACE, "gpukernsum": "cuda_gpu_kern_sum", "gpumemtimesum": "cuda_gpu_mem_time_sum",
    "gpumemsizesum": SIZES, "gpusum": "cuda_gpu_sum", "apigpusum": "cuda_api_gpu_sum", "cudaapisum": "cuda_api_sum",
    "cudaapitrace": "cuda_api_trace", "kernexecsum": CALLED_SUM, "kernexectrace": CALLED,
    "nvtxsum": "nvtx_sum", "nvtxppsum": "nvtx_pushpop_sum", "nvtxpptrace": "nvtx_pushpop_trace",
    "nvtxsssum": "nvtx_startend_sum", "nvtxkernsum": "nvtx_kern_sum", "osrtsum": "osrt_sum", "umsum": "um_sum",
    "umtotalsum": "um_total_sum", "mpieventsum": "mpi_event_sum",
    "gpukerngbsum": "cuda_gpu_kern_gb_sum",
}  # fmt: skip
# Columns that tell a report, for files that do not name it; the first that fits.
_SIGNATURES: tuple[tuple[str, frozenset[str]], ...] = (
    (TRACE, frozenset({"Start", "Duration", "GrdX", "BlkX", "Name"})),
    ("cuda_gpu_kern_gb_sum", frozenset({"Total Time", "GridXYZ", "BlockXYZ", "Name"})),
    ("nvtx_kern_sum", frozenset({"NVTX Range", "Kernel Name"})),
    (CALLED_SUM, frozenset({"API Name", "Kernel Name", "QCount"})),
    (CALLED, frozenset({"API Start", "Kernel Name", "Queue Start"})),
    ("cuda_gpu_sum", frozenset({"Total Time", "Category", "Operation"})),
    ("cuda_gpu_mem_time_sum", frozenset({"Total Time", "Operation"})),
    (SIZES, frozenset({"Total", "Operation"})),
    ("nvtx_gpu_proj_sum", frozenset({"Range", "Total Proj Time"})),
    ("nvtx_gpu_proj_trace", frozenset({"Name", "Projected Start"})),
    ("nvtx_sum", frozenset({"Total Time", "Style", "Range"})),
    ("nvtx_pushpop_sum", frozenset({"Total Time", "Range"})),
    ("nvtx_pushpop_trace", frozenset({"Start", "Duration", "RangeId"})),
    ("cuda_api_trace", frozenset({"Start", "Duration", "Name", "Result"})),
    ("um_sum", frozenset({"Virtual Address", "HtoD Migration Size"})),
    ("um_total_sum", frozenset({"Total HtoD Migration Size", "Total DtoH Migration Size"})),
    ("mpi_event_sum", frozenset({"Total Time", "Instances", "Source", "Name"})),
    ("cuda_gpu_kern_sum", frozenset({"Total Time", "Instances", "Name"})),
    ("cuda_api_sum", frozenset({"Total Time", "Num Calls", "Name"})),
    ("cuda_api_sum", frozenset({"Total Time", "Calls", "Name"})),
)
# Reports of other interfaces, whose columns are those of kernels or ranges: what they are named settles it.
_OTHERS = re.compile(r"(?:mpi|openacc|openmp|opengl|vulkan|dx1[12]|wddm|nvvideo|network|syscall)_\w+")
_RENAMED = {"Average": "Avg", "Minimum": "Min", "Maximum": "Max", "Median": "Med"}
_TIMES = frozenset({"Total Time", "Avg", "Med", "Min", "Max", "StdDev", "Start", "Duration", "End"})
_OWN = frozenset({"Time", "Total Time", "Total", "Start", "Duration"})
_UNIT = re.compile(r"(.+?) ?\(([%/\w]+)\)")
_NAMED = re.compile(r"(?:with \[(?:[^\]]*[/\\])?|\()(\w+)(?:\.py)?[\])]")
_DEVICE = re.compile(r"(.*?) ?\((\d+)\)")


@dataclass(frozen=True)
class _Column:
    """name: as versions since 2022 write it; unit: a base one; factor: by which its numbers are multiplied."""

    name: str
    unit: str
    factor: float


@dataclass(frozen=True)
class _Report:
    """One report of the file. rows: cells by column name."""

    name: str
    columns: tuple[_Column, ...]
    rows: Sequence[Mapping[str, str]]

    @cached_property
    def _factors(self) -> Mapping[str, float]:
        return {column.name: column.factor for column in self.columns}

    def number(self, row: Mapping[str, str], name: str) -> float | None:
        """In base units."""
        text = row.get(name)
        value = units.number(text) if text else None
        return None if value is None else value * self._factors[name]

    def whole(self, row: Mapping[str, str], *names: str) -> int | None:
        """Of the first of these columns that has a number."""
        for name in names:
            value = self.number(row, name)
            if value is not None:
                return round(value)
        return None


def is_header(row: Sequence[str]) -> bool:
    """Names of columns, one of them with a unit that these reports have."""
    if len(row) < 2 or not all(row) or any(units.number(cell) is not None for cell in row):
        return False
    return any(_measures(cell) for cell in row)


def recognizes(head: bytes) -> bool:
    named = b"Processing [" in head and b" with [" in head  # as nsys stats says before each report

    def certain(row: Sequence[str]) -> bool:
        if not is_header(row):
            return False
        own = any(_split(cell)[0] in _OWN for cell in row)
        return named or _by_columns(row) is not None or (own and sum(map(_measures, row)) > 1)

    return csv_tables.head_has(head, certain)


def read(path: Path, decimal: Decimal | None = None) -> Profile:
    """Raises UserError for a file without rows or one that is damaged."""
    tables = csv_tables.read(path, is_header, decimal)
    reports = [_report(table) for table in tables]
    launches = [*_kernels(reports), *_memory(reports)]
    if any(report.name == TRACE for report in reports):
        launches.sort(key=lambda launch: launch.place)
    else:
        launches.sort(key=lambda launch: (launch.start_ns is None, launch.start_ns or 0))
    launches = [one if one.place == place else replace(one, place=place) for place, one in enumerate(launches)]
    kept = tuple(_table(report) for report in reports if report.name != TRACE and report.rows)
    if not launches and not kept:
        raise files.unusable(path, "has no kernels that can be read", AGAIN)
    found = len(launches) or sum(len(table.rows) for table in kept)
    cut = tables[-1].cut
    expected, note = (found + 1, "the file ends in the middle of a row") if cut else (None, NO_END)
    if {report.name for report in reports} & {TRACE, CALLED} == {CALLED}:
        note += f"; {CALLED} has kernels alone: copies and fills that ran between them are not known"
    devices = {number: name for report in reports for name, number in map(_device, report.rows) if number is not None}
    kinds = ", ".join(dict.fromkeys(report.name for report in reports))
    about = files.provenance(
        path, "Nsight Systems", f"nsys stats, {kinds}", found, expected, note,
        devices={number: name for number, name in devices.items() if name},
    )  # fmt: skip
    return Profile(about, tuple(launches), tables=kept)


def _measures(cell: str) -> bool:
    """Whether a column has a unit that these reports print."""
    unit = _split(cell)[1]
    return cell == "Total Time" or unit == "%" or units.base(unit)[0] in ("ns", "byte", "byte/s")


def _split(cell: str) -> tuple[str, str]:
    """("Avg", "ns") from "Average (ns)"."""
    found = _UNIT.fullmatch(cell.strip())
    name, unit = (found[1], found[2]) if found else (cell.strip(), "")
    return _RENAMED.get(name, name), unit


def _report(table: Table) -> _Report:
    named = _NAMED.search(table.title)
    name = _OLD_NAMES.get(named[1], named[1]) if named else ""
    if name not in TITLES and not _OTHERS.fullmatch(name):
        name = _by_columns(table.header) or name or "report"
    columns = tuple(map(_column, table.header))
    names = [column.name for column in columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    if name == "cuda_api_sum" and not any(row["Name"].startswith("cu") for row in rows):
        name = "osrt_sum"  # has the same columns
    if name == "cuda_gpu_sum" and any(row["Category"] == "CUDA_API" for row in rows):
        name = "cuda_api_gpu_sum"
    if "Operation" not in names and rows and all(memory_operations.parse(row.get("Name", "")) for row in rows):
        name = MEMORY[1] if name == "cuda_gpu_kern_sum" else name
    return _Report(name, columns, rows)


def _by_columns(header: Sequence[str]) -> str | None:
    names = {_split(cell)[0] for cell in header}
    return next((name for name, wanted in _SIGNATURES if wanted <= names), None)


def _column(cell: str) -> _Column:
    name, printed = _split(cell)
    if not printed and name in _TIMES:
        printed = "ns"  # which versions of 2020 leave out
    unit, factor = units.base(printed)
    return _Column(name, unit, factor)


def _kernels(reports: Sequence[_Report]) -> list[KernelLaunch]:
    for name in KERNELS:
        reader = _KERNEL_READERS.get(name, _summed_kernel)
        found = [
            launch for report in reports if report.name == name for place, row in enumerate(report.rows)
            if (launch := reader(report, place, row))
        ]  # fmt: skip
        if found:
            return found
    return []


def _traced_kernel(report: _Report, place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    """None for a copy or a fill."""
    if memory_operations.parse(row["Name"]):
        return None
    grid = _sizes(row["GrdX"], row.get("GrdY", ""), row.get("GrdZ", ""))
    block = _sizes(row["BlkX"], row.get("BlkY", ""), row.get("BlkZ", ""))
    return KernelLaunch(
        place, row["Name"], RowKind.KERNEL, grid, block, report.whole(row, "Start"), report.number(row, "Duration"),
        stream=report.whole(row, "Strm"), device=_device(row)[1],
    )  # fmt: skip


def _called_kernel(report: _Report, place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    """None for a row without a kernel's name."""
    if not (name := row["Kernel Name"]):
        return None
    return KernelLaunch(
        place, name, RowKind.KERNEL, _numbers(row.get("GridXYZ", "")), _numbers(row.get("BlockXYZ", "")),
        report.whole(row, "Kernel Start"), report.number(row, "Kernel Dur"),
        device=report.whole(row, "DevId", "Device ID"), process=report.whole(row, "PID"),
        called_ns=report.whole(row, "API Start"),
    )  # fmt: skip


def _mean_kernel(report: _Report, place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    """All launches of a kernel by the mean of their execution; None for a row without a name or a count."""
    name, count, mean = row["Kernel Name"], report.whole(row, "Count"), report.number(row, "KAvg")
    if not name or not count:
        return None
    total = None if mean is None else mean * count
    return KernelLaunch(
        place, name, RowKind.SUMMARY, duration_ns=total, count=count, device=report.whole(row, "DevId", "Device ID"),
        process=report.whole(row, "PID"),
    )  # fmt: skip


def _summed_kernel(report: _Report, place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    """None for another row of a report that sums several kinds."""
    name, count = row.get("Name") or row.get("Operation", ""), report.whole(row, *COUNTS)
    if count is None or row.get("Category", "CUDA_KERNEL") != "CUDA_KERNEL" or memory_operations.parse(name):
        return None
    grid, block = _numbers(row.get("GridXYZ", "")), _numbers(row.get("BlockXYZ", ""))
    total = report.number(row, "Total Time")
    return KernelLaunch(0, name, RowKind.SUMMARY, grid, block, duration_ns=total, count=count)


_KERNEL_READERS = {TRACE: _traced_kernel, CALLED: _called_kernel, CALLED_SUM: _mean_kernel}


def _memory(reports: Sequence[_Report]) -> list[KernelLaunch]:
    sizes: dict[str, int] = {}
    for report in reports:
        for row in report.rows if report.name == SIZES else ():
            operation, total = memory_operations.parse(row["Operation"]), report.whole(row, "Total")
            if operation and total is not None:
                sizes[operation[1]] = sizes.get(operation[1], 0) + total
    for name in MEMORY:
        found = [
            launch for report in reports if report.name == name for place, row in enumerate(report.rows)
            if (launch := _operation(report, place, row, sizes))
        ]  # fmt: skip
        if found:
            return found
    return []


def _operation(report: _Report, place: int, row: Mapping[str, str], sizes: Mapping[str, int]) -> KernelLaunch | None:
    """A copy or a fill, or all of one direction; None for another row."""
    operation = memory_operations.parse(row.get("Operation") or row.get("Name", ""))
    if operation is None:
        return None
    kind, name, direction = operation
    if report.name == TRACE:
        return KernelLaunch(
            place, name, kind, start_ns=report.whole(row, "Start"), duration_ns=report.number(row, "Duration"),
            stream=report.whole(row, "Strm"), device=_device(row)[1], bytes=report.whole(row, "Bytes"),
            direction=direction,
        )  # fmt: skip
    count = report.whole(row, *COUNTS)
    if count is None:
        return None
    total = report.number(row, "Total Time")
    return KernelLaunch(
        place, name, kind, duration_ns=total, count=count, bytes=sizes.get(name), direction=direction
    )  # fmt: skip


def _device(row: Mapping[str, str]) -> tuple[str, int | None]:
    """Name and number of the GPU in a row of the trace."""
    return _numbered(row.get("Device", ""))


@lru_cache(maxsize=1 << 14)
def _numbered(device: str) -> tuple[str, int | None]:
    """("NVIDIA H100", 0) from "NVIDIA H100 (0)"."""
    found = _DEVICE.fullmatch(device.strip())
    return (found[1], int(found[2])) if found else ("", None)


@lru_cache(maxsize=1 << 14)
def _sizes(*texts: str) -> tuple[int, int, int] | None:
    """Of a grid or block; None for what are not three whole numbers."""
    if len(texts) != 3 or not all(text.strip().isdigit() for text in texts):
        return None
    x, y, z = map(int, texts)
    return x, y, z


def _numbers(sizes: str) -> tuple[int, int, int] | None:
    """(8, 1, 1) from "   8    1    1"."""
    return _sizes(*re.findall(r"\d+", sizes))


def _table(report: _Report) -> ReportTable:
    rows = tuple(
        tuple(
            row[column.name] or None if (value := units.number(row[column.name])) is None else value * column.factor
            for column in report.columns
        )
        for row in report.rows
    )
    names, base = tuple(column.name for column in report.columns), tuple(column.unit for column in report.columns)
    return ReportTable(report.name, TITLES.get(report.name, report.name), names, base, rows)


IMPORTER = Importer("CSV of nsys stats", recognizes, read, localized=True)
