"""Runs tests/interpreter, each file in a process that has Triton's interpreter instead of its compiler.

The interpreter has to be chosen before Triton is imported; in this process other tests compile.
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


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_the_interpreter(file: Path) -> None:
    # Threads of a matrix product would wait for each other on the few cores that tests share.
    variables = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not timing", "--tb=short")
    command = [sys.executable, "-m", "pytest", str(file), *options]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
