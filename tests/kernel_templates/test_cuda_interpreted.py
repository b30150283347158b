"""Runs tests/interpreter, in two processes that have Triton's interpreter instead of its compiler.

The interpreter has to be chosen before Triton is imported; in this process other tests compile. Two, because a process
takes 3 s to begin, and the last to end should not run alone for long.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests" / "interpreter").glob("test_interp_*.py"))

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


@pytest.mark.parametrize(
    "files", [FILES[i::2] for i in range(2)], ids=lambda files: "+".join(f.stem[12:] for f in files)
)
def test_in_the_interpreter(files: list[Path]) -> None:
    variables = os.environ | {"TRITON_INTERPRET": "1"}
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not timing", "--tb=short")
    command = [sys.executable, "-m", "pytest", *map(str, files), *options]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
