"""Runs NVIDIA Nsight Compute: finds it, makes its command line, explains why it measured nothing."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from autotune.importers import ncu_rep_library
from autotune.runner.python_process import environment

INSTALLED = "/opt/nvidia/nsight-compute/*/ncu"  # where NVIDIA's packages put versions that are not on the PATH
REASONS = {
    "ERR_NVGPUCTRPERM": "this user may not read the GPU's counters (NVIDIA's page on ERR_NVGPUCTRPERM says who may)",
    "ERR_NVGPUCTR_IN_USE": "another profiler is using the GPU's counters",
    "LibraryNotLoaded": "the driver here does not let profilers in",
    "No kernels were profiled": "it saw no kernels",
}


def find() -> Path | None:
    """The newest Nsight Compute here; None if there is none."""
    if named := shutil.which("ncu"):
        return Path(named)
    found = Path("/").glob(INSTALLED.lstrip("/"))
    return max(found, key=lambda path: ncu_rep_library.version(path.parent), default=None)


def command(ncu: Path, report: Path, work: Sequence[str], sections: str = "full", source: bool = True) -> list[str]:
    """The command line that profiles the kernels between the profiler's start and stop in `work` into `report`.

    Clocks stay as they are: a locked clock is not the one that kernels run at.
    """
    return [
        str(ncu), "--clock-control", "none", "--profile-from-start", "off", "--nvtx", "--set", sections,
        "--import-source", "yes" if source else "no", "--force-overwrite", "--export", str(report), *work,
    ]  # fmt: skip


def run(line: Sequence[str], timeout_s: float) -> str | None:
    """Run a profiler's command line; None if it went well, else why not, in one line."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, env=environment())
    except subprocess.TimeoutExpired:
        return f"it took more than {timeout_s:.0f} s"
    except OSError as error:
        return f"it does not start ({error.strerror or error})"
    said = done.stdout + done.stderr
    for sign, reason in REASONS.items():
        if sign in said:
            return reason
    if done.returncode:
        lines = [text for text in said.splitlines() if "ERROR" in text or "Error" in text] or said.splitlines()
        return f"it failed: {lines[-1].strip()}" if lines else f"it failed with exit status {done.returncode}"
    return None
