"""Nsight Compute's reports, `.ncu-rep`: the frame is checked here, the content read by NVIDIA's library in a process of
its own (autotune.importers.ncu_rep_reader)."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from autotune import UserError
from autotune.importers import files, ncu_rep_framing, ncu_rep_library
from autotune.importers.importer import Importer
from autotune.runner.python_process import environment, python_command
from tuning_db import profile_records as records
from tuning_db.profile_records import KernelLaunch, Metrics, Profile

TIMEOUT_S = 300
MISSING = "NVIDIA's package ncu-report; ./scripts/setup_env nsight"
# What Python says of a library that is made for another Python, or too old.
UNFIT = re.compile(rb"^(ImportError|ModuleNotFoundError|AttributeError: (module|type object))", re.MULTILINE)
AGAIN = "record or copy it again"
NO_END = f"a report has {files.NO_END}: one cut right behind a kernel is as one that was stopped there"
CLOCKS = {"sm": "gpc__cycles_elapsed.avg.per_second", "dram": "dram__cycles_elapsed.avg.per_second"}


def recognizes(head: bytes) -> bool:
    return head.startswith(ncu_rep_framing.MAGIC)


def read(path: Path) -> Profile:
    """A report, or what is left of one: then `provenance.expected` is more than `found`.

    Raises UserError when nothing can be read, or NVIDIA's library is not installed.
    """
    expected, note, session = _checked(path)
    if (library := ncu_rep_library.folders()) is None:
        raise UserError(f"{path} needs {MISSING}")
    with tempfile.TemporaryDirectory() as folder:
        document, numbers = _read_apart(path, Path(folder), library)
    launches, ranges = _launches(document, numbers)
    if len(launches) > expected:
        raise files.unusable(path, f"has {expected} kernels by its frame and {len(launches)} by its content", AGAIN)
    if not launches:
        raise files.unusable(path, "has no kernel that can be read", AGAIN)
    complete = len(launches) == expected
    note = NO_END if complete else note or "NVIDIA's library could not read the others"
    about = files.provenance(
        path, "Nsight Compute", "ncu-rep", len(launches), expected, note, tool_version=session[0],
        recorded_at=None if session[1] is None else _utc(session[1]), chip=document["chip"],
        clocks=clocks(launches[0].metrics),
    )  # fmt: skip
    return Profile(about, launches, ranges, document["sources"])


def clocks(metrics: Metrics) -> dict[str, float]:
    """Hz by name ("sm", "dram"), as far as a launch's metrics have them."""
    return {name: value for name, metric in CLOCKS.items() if (value := metrics.number(metric)) is not None}


def _checked(path: Path) -> tuple[int, str, tuple[str, int | None]]:
    """Kernels that the file says it has, what is wrong with it if anything is, and who wrote it."""
    try:
        blocks = ncu_rep_framing.read(path)
        session = ncu_rep_framing.about(blocks)
    except ncu_rep_framing.Damaged as error:
        if not error.results:
            raise files.unusable(path, str(error), AGAIN) from None
        # One more than is there when it was cut where a block's own count was lost.
        return max(error.declared, error.results + 1), f"the file {error}", ("", None)
    return sum(block.results for block in blocks), "", session


def _read_apart(path: Path, folder: Path, library: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
    """library: what the module search path needs beside to have NVIDIA's."""
    command = python_command("autotune.importers.ncu_rep_reader", str(path.absolute()), str(folder))
    found = environment()
    found["PYTHONPATH"] = os.pathsep.join([*filter(None, [found.get("PYTHONPATH")]), *library])
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, env=found)
    except subprocess.TimeoutExpired:
        raise files.unusable(path, f"could not be read within {TIMEOUT_S} s", AGAIN) from None
    result = folder / "report.json"
    if done.returncode and UNFIT.search(done.stderr or b""):
        which = f"in {library[0]}" if library else "of the package ncu-report"
        raise UserError(
            f"{path} cannot be read: NVIDIA's library {which} is of no use here; ./scripts/setup_env nsight"
        )
    if done.returncode or not result.exists():
        raise files.unusable(path, "is damaged: NVIDIA's library fails on it", AGAIN)
    return json.loads(result.read_bytes()), np.load(folder / "numbers.npy", allow_pickle=False)


def _launches(
    document: Mapping[str, Any], numbers: np.ndarray
) -> tuple[tuple[KernelLaunch, ...], tuple[records.Range, ...]]:
    columns = records.Columns(tuple(document["names"]), tuple(document["units"]))
    ranges: list[records.Range] = []
    places: dict[tuple[str, ...], int] = {}
    launches: list[KernelLaunch] = []
    for number, row in enumerate(document["launches"]):
        if not row["kernel"]:
            continue  # the library has an entry for a result that it could not decode, without a name
        metrics, place = Metrics(columns, numbers[number], row["texts"]), len(launches)
        launches.append(
            KernelLaunch(
                place=place,
                kernel=row["kernel"],
                kind=records.RowKind.GRAPH if row["graph"] else records.RowKind.KERNEL,
                grid=_triple(metrics, "grid"),
                block=_triple(metrics, "block"),
                duration_ns=metrics.number("gpu__time_duration.sum"),
                stream=_whole(metrics, "launch__stream_id"),
                range=_range(row["ranges"], ranges, places),
                metrics=metrics,
                findings=tuple(_finding(f, columns) for f in row["findings"]),
                lines=tuple(records.SourceLine(**line) for line in row["lines"]),
            )
        )
    return tuple(launches), tuple(ranges)


def _range(
    paths: Sequence[Sequence[str]], ranges: list[records.Range], places: dict[tuple[str, ...], int]
) -> int | None:
    """The place of the innermost range of the first domain; it and those around it are added where they are new."""
    if not paths:
        return None
    domain, *names = paths[0]
    parent = None
    for depth in range(len(names)):
        key = (domain, *names[: depth + 1])
        if key not in places:
            places[key] = len(ranges)
            ranges.append(records.Range(names[depth], parent, domain))
        parent = places[key]
    return parent


def _finding(row: Mapping[str, Any], columns: records.Columns) -> records.RuleFinding:
    focus = tuple(
        records.Metric(name, columns.units[columns.places[name]] if name in columns.places else "", value)
        for name, value in row["focus"]
        if isfinite(value)
    )
    return records.RuleFinding(**{**row, "focus": focus})


def _triple(metrics: Metrics, name: str) -> tuple[int, int, int] | None:
    x, y, z = (_whole(metrics, f"launch__{name}_dim_{axis}") for axis in "xyz")
    return None if x is None or y is None or z is None else (x, y, z)


def _utc(seconds: int) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _whole(metrics: Metrics, name: str) -> int | None:
    value = metrics.number(name)
    return None if value is None else int(value)


IMPORTER = Importer("Nsight Compute report", recognizes, read)
