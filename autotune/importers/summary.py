"""What an import brought, for whoever asked for it; and reading a JSON file that came from outside."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune import UserError
from kernel_templates.device import Device
from tuning_db import TuningDB
from tuning_db.records import Measurement, Run, Trial

LARGEST = 1 << 30  # bytes of text: a recorded space of a million configurations has less


@dataclass(frozen=True)
class Summary:
    """file, format: what was read; device, problem, run: where it went; found: trials; failed: those without a time."""

    file: str
    format: str
    device: str
    problem: str
    run: int
    found: int
    failed: int
    note: str = ""

    @property
    def line(self) -> str:
        """For whoever imported it."""
        count = f"{self.found} result{'s' * (self.found != 1)}, {self.failed} failed"
        return f"{self.format}, {count}; {self.problem} on {self.device}, run {self.run}"


def text(path: Path) -> str:
    """All of a file, perhaps gzipped. Raises UserError."""
    try:
        with gzip.open(path) if path.read_bytes()[:2] == b"\x1f\x8b" else path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 30} GB; import a part of it")
        return data.decode()
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError):
        raise UserError(f"{path} is damaged: it is no UTF-8 text, or its end is missing") from None


def document(path: Path, words: str | None = None) -> Any:
    """A JSON file's content, or that of `words`, read from it. Raises UserError."""
    try:
        return json.loads(text(path) if words is None else words)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {str(error)[:120]}") from None


def store(
    db: TuningDB, device: Device, run: Run, trials: list[Trial], status: str, times: tuple[str | None, str | None]
) -> int:
    """Keep a run with all of its trials; its number. times: when it began and ended, UTC in ISO 8601, if known."""
    db.remember_device(device)
    return db.add_run(device, run, trials, status, times[0], times[1])


def finite(value: Any, what: str, path: Path) -> float:
    """A number that came from outside. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise UserError(f"{path} is damaged: {what} is {value!r:.40}, not a number")
    return float(value)


def quantiles(nanoseconds: list[float]) -> Measurement:
    low, middle, high = np.quantile(nanoseconds, [0.1, 0.5, 0.9])
    return Measurement(float(low), float(middle), float(high), len(nanoseconds))


def foreign_device(name: str) -> Device:
    """What another tool says of its device: the name."""
    return Device("cuda", name, "unknown", 0, 0)


def foreign_run(problem: str, tool: str, count: int) -> Run:
    """Another tool's results as a run: no work is known, so no rate is shown."""
    return Run(problem, 0, f"imported: {tool}", 0, count, 0, 0)
