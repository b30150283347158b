"""Kernel Tuner's cache files: one JSON object, whose last two braces are missing while tuning goes on.

{"device_name", "kernel_name", "problem_size", "tune_params_keys", "tune_params", "cache": {"1,2": {parameters, "time"
in milliseconds or a word that says what failed, "times", "compile_time" in milliseconds, ...}}}
"""

from pathlib import Path
from typing import Any

from autotune.importers import files, tuning_results
from autotune.importers.importer import Importer
from autotune.importers.tuning_results import TuningResults
from tuning_db import field_checks as f
from tuning_db.field_checks import Fields
from tuning_db.records import Outcome, Trial

NAME = "Kernel Tuner's cache"
_NUMBER = f.number(*f.FINITE)
FAILURES = {
    "InvalidConfig": Outcome.PRUNED, "CompilationFailedConfig": Outcome.FAILED_TO_COMPILE,
    "RuntimeFailedConfig": Outcome.CRASHED, "ErrorConfig": Outcome.CRASHED,
}  # fmt: skip


def recognizes(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and b'"device_name"' in head and b'"kernel_name"' in head


def read(path: Path) -> TuningResults:
    """A run of the device that the file names. Raises UserError, and ValueError for a value that is not what it has to
    be."""
    made = Fields(files.json_of(path, _closed(files.text(path, files.LARGEST_JSON))))
    names, cache = made.take("tune_params_keys", f.list_of(f.text())), made.object("cache")
    objective = made.take("objective", f.text(), "time")
    trials = [_trial(entry, names, objective) for entry in cache.each().values()]
    device = tuning_results.foreign_device(made.take("device_name", f.text())[:100])
    sizes = made.take("problem_size", _size_of, None)
    size = "x".join(map(str, sizes)) if isinstance(sizes, list) else str(sizes)
    kernel = made.take("kernel_name", f.text())
    run = tuning_results.foreign_run(f"kernel_tuner:kernel={kernel},size={size}"[:200], NAME, len(trials))
    return TuningResults(path.name, NAME, device, run, tuple(trials))


def _closed(text: str) -> str:
    """With the braces that a cache which is being written has not yet."""
    text = text.strip()
    if "".join(text[-6:].split()).endswith("}}}"):
        return text
    return text.removesuffix(",") + "}\n}"


def _trial(entry: Fields, names: list[str], objective: str) -> Trial:
    config = {name: entry.take(name, f.scalar) for name in names}
    failure = next((v for v in entry.values.values() if isinstance(v, str) and v in FAILURES), None)
    compiled = entry.take("compile_time", f.maybe(_NUMBER), None)
    compile_s = None if compiled is None else compiled * 1e-3
    if failure:
        return Trial(config, FAILURES[failure], compile_s=compile_s, message=failure)
    times = entry.take("times", f.maybe(f.list_of(_NUMBER)), None)
    times = times or [entry.take(objective if objective in entry.values else "time", _NUMBER)]
    return Trial(config, Outcome.OK, tuning_results.quantiles([time * 1e6 for time in times]), compile_s)


def _size_of(value: Any) -> None:
    """A kernel's problem size: a number or a word, or a list of them."""
    f.list_of(f.scalar)(value if isinstance(value, list) else [value])


IMPORTER = Importer(NAME, recognizes, read)
