"""The Kernel Tuning Toolkit's results, as its tuner saves them in JSON.

{"Metadata": {"Device", "TimeUnit", "Timestamp", ...}, "Results": [{"KernelName", "Status", "TotalDuration" in the time
unit, "Configuration": [{"Name", "Value"}, ...], ...}, ...]}, from the toolkit's sources of 2021 to 2025.
"""

from pathlib import Path
from typing import Any

from autotune.importers import files, tuning_results
from autotune.importers.importer import Importer
from autotune.importers.tuning_results import TuningResults
from tuning_db import field_checks as f
from tuning_db.field_checks import Fields
from tuning_db.records import Outcome, Trial

NAME = "Kernel Tuning Toolkit's results"
_FAILURES = {
    "CompilationFailed": Outcome.FAILED_TO_COMPILE, "ComputationFailed": Outcome.CRASHED,
    "DeviceLimitsExceeded": Outcome.FAILED_TO_COMPILE, "ValidationFailed": Outcome.WRONG,
}  # fmt: skip


def recognizes(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{" and b'"Metadata"' in head and b'"Results"' in head and b'"KernelName"' in head


def read(path: Path) -> tuple[TuningResults, ...]:
    """A run of the device that the file names for each kernel in it. Raises UserError, and ValueError for a value that
    is not what it has to be."""
    made = Fields(files.json_of(path))
    about, results = made.object("Metadata"), made.objects("Results")
    factor = tuning_results.nanoseconds_of(about.take("TimeUnit", f.text(), "Microseconds"))
    if factor is None:
        raise files.unusable(path, "has times in no unit of time", "save the results again")
    if not results:
        raise files.unusable(path, "has no results", "save them after tuning")
    device = tuning_results.foreign_device(about.take("Device", f.text(), ""), path.name)
    by_kernel: dict[str, list[Trial]] = {}
    for result in results:
        by_kernel.setdefault(result.take("KernelName", f.text()), []).append(_trial(result, factor))
    return tuple(
        TuningResults(
            path.name, NAME, device, tuning_results.foreign_run(f"ktt:kernel={kernel}"[:200], NAME, len(trials)),
            tuple(trials),
        )
        for kernel, trials in by_kernel.items()
    )  # fmt: skip


def _trial(result: Fields, factor: float) -> Trial:
    config: dict[str, Any] = {
        pair.take("Name", f.text()): pair.take("Value", f.scalar) for pair in result.objects("Configuration")
    }
    status = result.take("Status", f.text(), "Ok")
    if status != "Ok":
        return Trial(config, _FAILURES.get(status, Outcome.CRASHED), message=status)
    return tuning_results.timed(config, [result.values.get("TotalDuration")], factor)


IMPORTER = Importer(NAME, recognizes, read)
