"""Kernel Tuner's cache files: one JSON object, whose last two braces are missing while tuning goes on.

{"device_name", "kernel_name", "problem_size", "tune_params_keys", "tune_params", "cache": {"1,2": {parameters, "time"
in milliseconds or a word that says what failed, "times", "compile_time" in milliseconds, ...}}}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.importers import files, tuning_results
from autotune.importers.importer import Importer
from autotune.importers.tuning_results import TuningResults
from tuning_db.records import Outcome, Trial

NAME = "Kernel Tuner's cache"
FAILURES = {
    "InvalidConfig": Outcome.PRUNED, "CompilationFailedConfig": Outcome.FAILED_TO_COMPILE,
    "RuntimeFailedConfig": Outcome.CRASHED, "ErrorConfig": Outcome.CRASHED,
}  # fmt: skip


def recognizes(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and b'"device_name"' in head and b'"kernel_name"' in head


def read(path: Path) -> TuningResults:
    """A run of the device that the file names. Raises UserError."""
    made = files.json_of(path, _closed(files.text(path)))
    if not isinstance(made, dict) or not isinstance(made.get("cache"), dict):
        raise UserError(f"{path} is damaged: it has no cache")
    names = made.get("tune_params_keys")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is damaged: it does not name its parameters (tune_params_keys)")
    objective = made.get("objective", "time")
    trials = [_trial(entry, names, objective, path) for entry in made["cache"].values()]
    device = tuning_results.foreign_device(str(made.get("device_name"))[:100])
    size = "x".join(map(str, s)) if isinstance(s := made.get("problem_size"), list) else str(s)
    run = tuning_results.foreign_run(
        f"kernel_tuner:kernel={made.get('kernel_name')},size={size}"[:200], NAME, len(trials)
    )
    return TuningResults(path.name, NAME, device, run, tuple(trials))


def _closed(text: str) -> str:
    """With the braces that a cache which is being written has not yet."""
    text = text.strip()
    if "".join(text[-6:].split()).endswith("}}}"):
        return text
    return text.removesuffix(",") + "}\n}"


def _trial(entry: Any, names: list[str], objective: str, path: Path) -> Trial:
    if not isinstance(entry, Mapping) or any(name not in entry for name in names):
        raise UserError(f"{path} is damaged: an entry lacks one of {', '.join(names)[:80]}")
    config = {name: entry[name] for name in names}
    failure = next((v for v in entry.values() if isinstance(v, str) and v in FAILURES), None)
    compiled = entry.get("compile_time")
    compile_s = None if compiled is None else tuning_results.finite(compiled, "compile_time", path) * 1e-3
    if failure:
        return Trial(config, FAILURES[failure], compile_s=compile_s, message=failure)
    times = entry.get("times") or [entry.get(objective if objective in entry else "time")]
    if not isinstance(times, list):
        raise UserError(f"{path} is damaged: times is {times!r:.40}")
    measured = tuning_results.quantiles([tuning_results.finite(time, "a time", path) * 1e6 for time in times])
    return Trial(config, Outcome.OK, measured, compile_s)


IMPORTER = Importer(NAME, recognizes, read)
