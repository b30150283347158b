"""Finds llama.cpp to compare with: the wheel xllamacpp, or llama-cpp-python built from its source for this processor.

The wheel is there at once but has AVX2 at most; the build takes minutes and has what the processor has. There,
`-DGGML_NATIVE=ON` would turn on AMX, which crashed on Sapphire Rapids virtual machines; so each instruction set is
named, as far as /proc/cpuinfo has it, and AMX never is.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

VERSION = "0.3.36"
VARIABLE = "AUTOTUNE_PEER_PYTHON"
ROOT = Path(__file__).resolve().parents[2]
RECORD = "cmake_args.json"
"""In the environment's folder: the list of flags it was built with. Written last, so it also says "complete"."""

# ggml's option -> the processor flags it relies on.
FEATURES = {
    "AVX": {"avx"},
    "AVX2": {"avx2"},
    "FMA": {"fma"},
    "F16C": {"f16c"},
    "BMI2": {"bmi2"},
    "AVX512": {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
    "AVX512_VBMI": {"avx512vbmi"},
    "AVX512_VNNI": {"avx512_vnni"},
    "AVX512_BF16": {"avx512_bf16"},
}


def cmake_args(cpuinfo: str) -> list[str]:
    """Flags for the processor that the text of /proc/cpuinfo describes."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    present = set(line.partition(":")[2].split())
    wanted = [option for option, flags in FEATURES.items() if flags <= present]
    if "AVX512_VNNI" not in wanted and "avx_vnni" in present:
        wanted.append("AVX_VNNI")
    return ["-DGGML_NATIVE=OFF", *(f"-DGGML_{option}=ON" for option in wanted)]


def recorded_args(python: Path) -> list[str] | None:
    """The flags that an environment was built with, if it says so."""
    try:
        return json.loads((python.parent.parent / RECORD).read_text())
    except (OSError, ValueError):
        return None


def peer_python(chosen: str | None) -> Path:
    """The Python that has llama.cpp: `chosen`, or $AUTOTUNE_PEER_PYTHON, or this one with its extra "peer". "build"
    stands for .venv-peer, made if need be.

    Raises click.ClickException when it cannot be had.
    """
    named = chosen or os.environ.get(VARIABLE) or sys.executable
    if named == "build":
        python = ROOT / ".venv-peer" / "bin" / "python"
        if recorded_args(python) is None:
            _build(python)
        return python
    tried = "import importlib.util as u; raise SystemExit(not (u.find_spec('llama_cpp') or u.find_spec('xllamacpp')))"
    if subprocess.run([named, "-c", tried], capture_output=True).returncode:
        raise click.ClickException(
            f"{Path(named).name} has neither xllamacpp nor llama_cpp: run ./scripts/setup_env peer, or build one with "
            "--peer-python build"
        )
    return Path(named)


def _build(python: Path) -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise click.ClickException("building llama.cpp needs a C++ compiler; install one (Debian: apt install g++)")
    folder = python.parent.parent
    args = cmake_args(Path("/proc/cpuinfo").read_text())
    click.echo(
        f"Building llama-cpp-python {VERSION} into {folder.name} (once, about 8 minutes on 2 cores) ...", err=True
    )
    click.echo("  " + " ".join(args), err=True)
    shutil.rmtree(folder, ignore_errors=True)
    cores = str(len(os.sched_getaffinity(0)))
    environment = os.environ | {"CMAKE_ARGS": " ".join(args), "CMAKE_BUILD_PARALLEL_LEVEL": cores}
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir", "--no-binary"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*install, "llama-cpp-python", f"llama-cpp-python=={VERSION}"],  # not from pip's cache: its flags are unknown
    ):
        if subprocess.run(command, env=environment, stdout=sys.stderr).returncode:
            raise click.ClickException("llama-cpp-python could not be built; the message is above")
    (folder / RECORD).write_text(json.dumps(args))
