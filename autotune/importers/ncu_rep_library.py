"""Finds NVIDIA's library that reads .ncu-rep files: the package ncu-report, else what Nsight Compute itself brings."""

import importlib.util
import re
import shutil
from pathlib import Path

LIBRARY = "ncu_report"
BROUGHT = Path("extras") / "python"  # within a folder of Nsight Compute: ncu_report.py and its shared libraries
INSTALLED = ("opt/nvidia/nsight-compute/*", "usr/local/cuda*/nsight-compute-*", "usr/local/NVIDIA-Nsight-Compute*")


def folders() -> list[str] | None:
    """What the module search path of a process needs to have the library: nothing where the package is installed, else
    a folder of the newest Nsight Compute that brings it; None where neither is here."""
    if importlib.util.find_spec(LIBRARY) is not None:
        return []
    found = [folder for pattern in INSTALLED for folder in Path("/").glob(pattern)]
    if named := shutil.which("ncu"):
        found.append(Path(named).resolve().parent)  # what is on the PATH may be a link into the folder
    usable = [folder for folder in found if (folder / BROUGHT / f"{LIBRARY}.py").exists()]
    newest = max(usable, key=version, default=None)
    return None if newest is None else [str(newest / BROUGHT)]


def version(folder: Path) -> list[int]:
    """Of Nsight Compute, by its folder's name: 2025.10 is newer than 2025.9."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]
