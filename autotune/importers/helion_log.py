"""Helion's autotune log (HELION_AUTOTUNE_LOG=BASE makes BASE.csv): the configurations it tried, with their times.

Columns, from Helion's sources of 2025 and 2026: timestamp_s, config_index or config_id, generation, status, perf_ms,
compile_time_s, config; newer ones begin with run_id. A configuration has a row when it starts and one when it is done.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.importers import files, units
from autotune.importers.importer import Importer
from autotune.importers.number_format import Decimal
from tuning_db.profile_records import KernelLaunch, Metrics, Profile, RowKind

COLUMNS = ("generation", "status", "perf_ms", "config")
FORMAT = "Helion autotune log"
STARTED = "started"
AGAIN = "take the .csv that HELION_AUTOTUNE_LOG names"


def recognizes(head: bytes) -> bool:
    return files.head_has(head, COLUMNS)


def read(path: Path, decimal: Decimal | None = None) -> Profile:
    """One row of kind TRIAL for each configuration that was finished; those only started make the import partial."""
    table = files.csv_rows(path, COLUMNS, decimal)
    header = next(table, [])
    number = next((name for name in ("config_id", "config_index") if name in header), "config")
    started: set[tuple[str, str]] = set()
    trials: dict[tuple[str, str], KernelLaunch] = {}
    cut = False
    for row in table:
        if len(row) != len(header):
            cut = True
            break
        named = dict(zip(header, row, strict=True))
        key = (named.get("run_id", ""), named[number])
        started.add(key)
        if named["status"] != STARTED:
            # Measured again, a configuration has several rows; the last one stands.
            trials[key] = _trial(trials[key].place if key in trials else len(trials), path.stem, named)
    if not trials:
        raise files.unusable(path, "has no finished configuration", AGAIN)
    missing = len(started - trials.keys())
    note = "the file ends in the middle of a row" if cut else ""
    if missing:
        note = "; ".join(filter(None, (note, f"{missing} configurations were started and not finished")))
    about = files.provenance(path, "Helion", FORMAT, len(trials), len(trials) + missing + cut, note)
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
