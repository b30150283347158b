"""The house: packages know only those below them, and importing one starts nothing."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "kernel_templates": set(),
    "tuning_db": {"kernel_templates"},
    "model": {"kernel_templates", "tuning_db"},
    "autotune": {"kernel_templates", "tuning_db"},
}
# The command line joins the tuner and the engine, errors included; nothing else of either knows the other.
JOINS = (
    "autotune/cli.py",
    "autotune/benchmarking/cpu_benchmark.py",
    "autotune/benchmarking/cuda_benchmark.py",
    "autotune/commands/",
)


def modules() -> Iterator[Path]:
    for package in BELOW:
        yield from sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
            yield node.lineno, importlib.util.resolve_name("." * node.level + (node.module or ""), base)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def test_imports_only_point_downwards():
    wrong = []
    for path in modules():
        where = path.relative_to(ROOT).as_posix()
        package = where.partition("/")[0]
        allowed = {package, *BELOW[package]} | ({"model"} if where.startswith(JOINS) else set())
        for line, module in imported(path):
            top = module.partition(".")[0]
            if top in {*BELOW, "tests", "scripts", "benchmarks"} - allowed:
                wrong.append(f"{where}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_formats_know_no_kernel():
    for path in (ROOT / "kernel_templates" / "formats").glob("*.py"):
        for line, module in imported(path):
            if module.startswith("kernel_templates."):
                assert module.startswith("kernel_templates.formats"), f"{path.name}:{line} imports {module}"


IMPORT_ALL = """
import importlib, json, os, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
from numba.core.dispatcher import Dispatcher
import gc
compiled = [d.__qualname__ for d in gc.get_objects() if issubclass(type(d), Dispatcher) and d.overloads]
print(json.dumps({
    "cuda": torch.cuda.is_initialized(),
    "threads": [t.name for t in threading.enumerate()],
    "compiled": [n for n in compiled if n not in ("_run", "_close", "_serve")],
    "triton": "triton" in sys.modules,
}))
"""


@pytest.mark.parametrize("package", list(BELOW))
def test_importing_starts_nothing(package):
    """Except the three functions of a thread team, which numba keeps on disk, no code is compiled."""
    names = [name_of(p) for p in modules() if name_of(p).partition(".")[0] == package]
    names = [n for n in names if not n.endswith("__main__")]
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["threads"] == ["MainThread"]
    assert not found["cuda"]
    assert found["compiled"] == []
