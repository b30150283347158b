"""What could change a number: versions of everything that compiles or runs a kernel, and this project's commit."""

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT = "AUTOTUNE_COMMIT"
"""Names the commit of a copy that has no history."""

PACKAGES = ("autotune", "llvmlite", "numba", "numpy", "optuna", "torch", "triton")


@functools.cache
def versions() -> dict[str, str]:
    """Name -> version; "commit" of a checkout, with "+changes" when files differ from it, else AUTOTUNE_COMMIT."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if commit := os.environ.get(COMMIT) or _commit():
        found["commit"] = commit
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(("git", "-C", root, *words), capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if head and git("status", "--porcelain", "--untracked-files=no") else "") or None
    except (OSError, subprocess.TimeoutExpired):
        return None
