"""The CSV of `nsys stats`: cuda_gpu_trace, a row a launch, and cuda_gpu_kern_sum, a row for all launches of a kernel.

Names of columns as Nsight Systems 2023 to 2025 writes them, the unit in parentheses. Other reports in the same file are
left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from autotune.importers import files, units
from autotune.importers.importer import Importer
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import KernelLaunch, Profile, RowKind

TRACE = ("Name", "GrdX", "BlkX", "CorrId")
SUMMARY = ("Name", "Instances")
AGAIN = "export it again with nsys stats --format csv"
NO_END = f"a CSV has {files.NO_END}: rows missing after the last one would not be noticed"


def recognizes(head: bytes) -> bool:
    return files.head_has(head, TRACE) or files.head_has(head, (*SUMMARY, "Total Time ("))


def read(path: Path, decimal: Decimal | None = None) -> Profile:
    """Raises UserError for a file without kernels or one that is damaged."""
    trace = files.head_has(files.head_of(path), TRACE)
    table = files.csv_rows(path, TRACE if trace else SUMMARY, decimal)
    header = next(table, [])
    launches: list[KernelLaunch] = []
    cut = False
    for row in table:
        if len(row) != len(header):
            cut = next(table, None) is None
            if not cut and any(units.number(cell) is not None for cell in row):
                raise files.unusable(path, "is damaged: rows differ in length", AGAIN)
            break  # where the file was cut, or at the header of the next report
        named = dict(zip(header, row, strict=True))
        launch = _launch(len(launches), named) if trace else _summary(len(launches), named)
        if launch is not None:
            launches.append(launch)
    if not launches:
        raise files.unusable(path, "has no kernels that can be read", AGAIN)
    kind = "nsys stats, cuda_gpu_trace" if trace else "nsys stats, cuda_gpu_kern_sum"
    expected, note = (len(launches) + 1, "the file ends in the middle of a row") if cut else (None, NO_END)
    return Profile(files.provenance(path, "Nsight Systems", kind, len(launches), expected, note), tuple(launches))


def _launch(place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    """None for a copy or a fill, which are in the same table and have no grid."""
    if not row["GrdX"].strip():
        return None
    start, duration = _time(row, "Start"), _time(row, "Duration")
    grid, block = (_triple(row, name) for name in ("Grd", "Blk"))
    return KernelLaunch(
        place, row["Name"], RowKind.KERNEL, grid, block, None if start is None else int(start), duration,
        stream=int(row["Strm"]) if row.get("Strm", "").isdigit() else None,
    )  # fmt: skip


def _summary(place: int, row: Mapping[str, str]) -> KernelLaunch | None:
    count = units.number(row["Instances"])
    if count is None:
        return None
    return KernelLaunch(place, row["Name"], RowKind.SUMMARY, duration_ns=_time(row, "Total Time"), count=int(count))


def _time(row: Mapping[str, str], name: str) -> float | None:
    """Nanoseconds from a column such as "Duration (us)"."""
    for column, text in row.items():
        found = re.fullmatch(rf"{name} \((\w+)\)", column)
        value = units.number(text) if found else None
        if found and value is not None:
            unit, factor = units.base(found[1])
            return value * factor if unit == "ns" else None
    return None


def _triple(row: Mapping[str, str], name: str) -> tuple[int, int, int] | None:
    x, y, z = (units.number(row.get(f"{name}{axis}", "")) for axis in "XYZ")
    return None if x is None or y is None or z is None else (int(x), int(y), int(z))


IMPORTER = Importer("CSV of nsys stats", recognizes, read, localized=True)
