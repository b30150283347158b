"""Helion's autotune log (HELION_AUTOTUNE_LOG=BASE makes BASE.csv): the configurations it tried, with their times.

Columns, from Helion's sources of 2025 and 2026: timestamp_s, config_index or config_id, generation, status, perf_ms,
compile_time_s, config; newer ones begin with run_id. A configuration has a row when it starts and one when it is done.
Every run of the tuner adds its rows to the same file, and is a profile of its own.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.importers import csv_tables, files, units
from autotune.importers.importer import Importer
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import KernelLaunch, Metrics, Profile, RowKind

COLUMNS = ("generation", "status", "perf_ms", "config")
FORMAT = "Helion autotune log"
STARTED = "started"
AGAIN = "take the .csv that HELION_AUTOTUNE_LOG names"


def recognizes(head: bytes) -> bool:
    return csv_tables.head_has(head, csv_tables.has(*COLUMNS))


def read(path: Path, decimal: Decimal | None = None) -> tuple[Profile, ...]:
    """A profile for each run, with one row of kind TRIAL for each configuration that was finished; those only started
    make the import partial."""
    runs: dict[str, list[Mapping[str, str]]] = {}
    tables = csv_tables.read(path, csv_tables.has(*COLUMNS), decimal)
    for table in tables:
        for row in table.rows:
            named = dict(zip(table.header, row, strict=True))
            runs.setdefault(named.get("run_id", ""), []).append(named)
    last = next(reversed(runs), "") if tables[-1].cut else None
    found = [_run(path, run, rows, run == last) for run, rows in runs.items()]
    done = tuple(profile for profile in found if profile.launches)
    if not done:
        raise files.unusable(path, "has no finished configuration", AGAIN)
    return done


def _run(path: Path, run: str, rows: Sequence[Mapping[str, str]], cut: bool) -> Profile:
    number = next((name for name in ("config_id", "config_index") if name in rows[0]), "config")
    started: set[str] = set()
    trials: dict[str, KernelLaunch] = {}
    for row in rows:
        key = row[number]
        started.add(key)
        if row["status"] != STARTED:
            # Measured again, a configuration has several rows; the last one stands.
            trials[key] = _trial(trials[key].place if key in trials else len(trials), path.stem, row)
    missing = len(started - trials.keys())
    notes = ["the file ends in the middle of a row"] if cut else []
    if missing:
        notes.append(f"{missing} configuration{'s were' if missing > 1 else ' was'} started and not finished")
    kind = f"{FORMAT}, run {run}" if run else FORMAT
    about = files.provenance(path, "Helion", kind, len(trials), len(trials) + missing + cut, "; ".join(notes))
    if run:  # several profiles of one file: each is known by the file and its run
        about = replace(about, sha256=hashlib.sha256(f"{about.sha256} {run}".encode()).hexdigest())
    return Profile(about, tuple(trials.values()))


def _trial(place: int, kernel: str, row: Mapping[str, str]) -> KernelLaunch:
    milliseconds = units.number(row["perf_ms"])
    texts = {name: row[name] for name in ("status", "generation", "compile_time_s") if row.get(name)}
    return KernelLaunch(
        place, kernel, RowKind.TRIAL, duration_ns=None if milliseconds is None else milliseconds * 1e6,
        config=config(row["config"]), metrics=Metrics(texts=texts),
    )  # fmt: skip


def config(text: str) -> dict[str, Any]:
    """The settings in `helion.Config(block_sizes=[64], num_warps=4)` or a dictionary's text; nothing is executed."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Call):
            return {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords if word.arg}
        found = ast.literal_eval(tree)
        return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {"config": text}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"config": text}


IMPORTER = Importer(FORMAT, recognizes, read, localized=True)
