"""One configuration of each operation under NVIDIA's compute sanitizer: no access out of bounds, no race."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("sanitized.py")
NAMES = ("matvec", "ffn", "head", "norm_qkv_rope", "attention", "layer", "pick")


@pytest.fixture(scope="module")
def sanitizer() -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"))
    found = shutil.which("compute-sanitizer", path=path)
    if found is None:
        pytest.skip("compute-sanitizer is neither on the path nor in /usr/local/cuda/bin")
    return found


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_complain_about(sanitizer: str, name: str, tool: str) -> None:
    """memcheck: accesses out of bounds or misaligned; racecheck: shared memory that threads use without a barrier."""
    # Compiled beforehand, for the sanitizer slows down everything in the process.
    subprocess.run([sys.executable, str(SCRIPT), name], check=True, capture_output=True, timeout=120)
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, str(SCRIPT), name]
    # torch's allocator hands out pieces of large blocks, in which an access past a tensor's end goes unseen.
    variables = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "RACECHECK SUMMARY: 0 hazards" in done.stdout
