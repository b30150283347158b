"""Runs calls of problems in a process of their own (profile_target), under Nsight Compute or timed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.profiling import ncu
from autotune.profiling.kernel_key import KnownKernel
from autotune.runner.python_process import python_command
from kernel_templates.space import Config

TIMED_SAMPLES = 30


@dataclass(frozen=True)
class Call:
    """A call to profile. problem: its key; role: "winner" or "default"."""

    problem: str
    config: Config
    role: str


@dataclass(frozen=True)
class Recording:
    """kernels: what was launched, in order; failure: why the profiler measured nothing, None if it did."""

    report: Path
    kernels: tuple[KnownKernel, ...]
    failure: str | None


def record(
    calls: Sequence[Call], device: str, profiler: Path, folder: Path, sections: str = "full", timeout_s: float = 300
) -> Recording:
    """Run Nsight Compute on these calls; the report is left in `folder`."""
    manifest, report = folder / "kernels.json", folder / "report.ncu-rep"
    work = _target(calls, device, manifest, folder, timed=0)
    failure = ncu.run(ncu.command(profiler, report, work, sections), timeout_s)
    if failure is None and not report.exists():
        failure = "it wrote no report"
    rows = json.loads(manifest.read_text()) if manifest.exists() else []
    return Recording(report, tuple(KnownKernel.parse(row) for row in rows), failure)


def timed(calls: Sequence[Call], device: str, folder: Path, timeout_s: float = 300) -> list[dict[str, Any]] | str:
    """The calls' times as a search takes them, without a profiler: rows of problem, config, role, q10_ns, median_ns,
    q90_ns, samples, bytes_needed; or why there are none, in one line."""
    manifest = folder / "times.json"
    failure = ncu.run(_target(calls, device, manifest, folder, timed=TIMED_SAMPLES), timeout_s)
    return failure if failure is not None else json.loads(manifest.read_text())


def _target(calls: Sequence[Call], device: str, manifest: Path, folder: Path, timed: int) -> list[str]:
    request = folder / f"{manifest.stem}_request.json"
    asked = [{"problem": call.problem, "config": dict(call.config), "role": call.role} for call in calls]
    request.write_text(json.dumps({"device": device, "calls": asked, "manifest": str(manifest), "timed": timed}))
    return python_command("autotune.profiling.profile_target", str(request))
