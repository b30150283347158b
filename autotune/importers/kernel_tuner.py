"""Kernel Tuner's cache files: one JSON object, whose last two braces are missing while tuning goes on.

{"device_name", "kernel_name", "problem_size", "tune_params_keys", "tune_params", "cache": {"1,2": {parameters, "time"
in milliseconds, or a word or 1e20 where it failed, "times", "compile_time" in milliseconds, "timestamp", ...}}}
"""

import json
import re
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.importers import files, tuning_results
from autotune.importers.importer import Importer
from autotune.importers.tuning_results import TuningResults
from tuning_db import field_checks as f
from tuning_db.field_checks import Fields
from tuning_db.records import RunStatus, Trial

NAME = "Kernel Tuner's cache"
_NUMBER = f.number(*f.FINITE)
_MOST_OBJECTS = 4  # in an entry that a file ends in
_CLOSED = re.compile(r"}\s*}\s*}$|{\s*}\s*}$")  # the last entry, the cache and the document; or a cache without entries


def recognizes(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and b'"device_name"' in head and b'"kernel_name"' in head


def read(path: Path) -> TuningResults:
    """A run of the device that the file names. Raises UserError, and ValueError for a value that is not what it has to
    be."""
    document, status, note = _document(path)
    made = Fields(document)
    names, cache = made.take("tune_params_keys", f.list_of(f.text())), made.object("cache")
    objective = made.take("objective", _objective, "time")
    objectives = objective if isinstance(objective, list) else [objective]
    trials = [_trial(path, entry, names, objectives) for entry in cache.each().values()]
    device = tuning_results.foreign_device(made.take("device_name", f.text()), path.name)
    sizes = made.take("problem_size", _size_of, None)
    size = "x".join(map(str, sizes)) if isinstance(sizes, list) else str(sizes)
    kernel = made.take("kernel_name", f.text())
    run = tuning_results.foreign_run(f"kernel_tuner:kernel={kernel},size={size}"[:200], NAME, len(trials))
    ended_at = tuning_results.moments([entry.values.get("timestamp") for entry in cache.each().values()])
    return TuningResults(path.name, NAME, device, run, tuple(trials), status, ended_at=ended_at, note=note)


def _document(path: Path) -> tuple[Any, RunStatus, str]:
    """The JSON object, whether tuning was done, and what is missing in words. Raises UserError.

    A cache that is being written lacks its last two braces; a copy of one may end within an entry, which is left out.
    """
    text = files.text(path, files.LARGEST_JSON).strip()
    if _CLOSED.search(text[-200:]):
        return files.json_of(path, text), RunStatus.FINISHED, ""
    try:
        return files.json_of(path, text.removesuffix(",") + "}\n}"), RunStatus.INTERRUPTED, ""
    except UserError:
        end = len(text)
        for _ in range(_MOST_OBJECTS):
            end = text.rfind("}", 0, max(end, 0))
            try:
                whole = json.loads(text[: end + 1] + "}\n}") if end > 0 else None
            except (ValueError, RecursionError):
                continue
            if whole is not None:
                return whole, RunStatus.INTERRUPTED, "the file ends in the middle of an entry, which was left out"
        raise


def _trial(path: Path, entry: Fields, names: list[str], objectives: list[str]) -> Trial:
    config = {name: entry.take(name, f.scalar) for name in names}
    compiled = entry.take("compile_time", f.maybe(_NUMBER), None)
    compile_s = None if compiled is None else compiled * 1e-3
    others = (value for name, value in entry.values.items() if name not in names and isinstance(value, str))
    candidates = [name for name in (*objectives, "time") if name in entry.values]
    for value in (*others, *(entry.values[name] for name in candidates)):
        if failed := tuning_results.failure(config, value, compile_s):
            return failed
    times = entry.take("times", f.maybe(f.list_of(f.any_value)), None)
    if not times:
        timed = next((name for name in candidates if tuning_results.is_time(name)), None)
        if timed is None and not any(tuning_results.is_time(name) for name in objectives):
            raise tuning_results.no_time(path, objectives[0] if objectives else "")
        times = [entry.values.get(timed or "time")]
    return tuning_results.timed(config, times, 1e6, compile_s)


def _objective(value: Any) -> None:
    """What was optimized: one name, or a list of them."""
    f.list_of(f.text())(value) if isinstance(value, list) else f.text()(value)


def _size_of(value: Any) -> None:
    """A kernel's problem size: a number or a word, or a list of them."""
    f.list_of(f.scalar)(value if isinstance(value, list) else [value])


IMPORTER = Importer(NAME, recognizes, read)
