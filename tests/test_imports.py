"""The house: packages know only those below them, and importing one starts nothing."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "kernel_templates": set(),
    "tuning_db": {"kernel_templates"},
    "model": {"kernel_templates", "tuning_db"},
    "autotune": {"kernel_templates", "tuning_db"},
}
# Rooms of autotune/: each may import those named here, and itself. `cli.py` and `__init__.py` are the room "".
ROOMS_BELOW = {
    "": {"commands", "tuning", "samplers", "runner"},
    "commands": {
        "tuning",
        "benchmarking",
        "precision",
        "dashboard",
        "profiling",
        "importers",
        "samplers",
        "screening",
        "runner",
    },
    "tuning": {"samplers", "screening", "runner"},
    "benchmarking": {"runner"},
    "precision": {"peer"},
    "peer": {"runner"},
    "dashboard": {"benchmarking", "precision", "profiling", "screening"},
    "profiling": {"importers", "runner"},
    "importers": {"runner"},
    "runner": {"screening"},
    "samplers": set(),
    "screening": set(),
}
# What describes an operation, whatever runs it.
ABSTRACT = ("device", "formats", "operation", "problem", "random_inputs", "registry", "space")
# The command line joins the tuner and the engine, errors included; nothing else of either knows the other. The API
# `autotune.load` and `autotune.tune` imports both inside its functions: a user's program needs one name, not two.
JOINS = (
    "autotune/__init__.py",
    "autotune/cli.py",
    "autotune/benchmarking/model_benchmark.py",
    "autotune/benchmarking/cpu_backend.py",
    "autotune/benchmarking/cuda_backend.py",
    "autotune/benchmarking/several_texts.py",
    "autotune/commands/",
    "autotune/precision/",
)


def modules() -> Iterator[Path]:
    for package in BELOW:
        yield from sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, members: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions included; members: "module.name" of each name
    that is imported from a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
            yield node.lineno, importlib.util.resolve_name("." * node.level + (node.module or ""), base)
        elif isinstance(node, ast.ImportFrom) and members:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
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


def test_every_room_of_autotune_has_its_place():
    rooms = {path.parent.name for path in (ROOT / "autotune").glob("*/__init__.py")}
    assert rooms == ROOMS_BELOW.keys() - {""}
    order = {room: _height(room) for room in ROOMS_BELOW}  # a circle would never end
    assert max(order, key=order.__getitem__) == ""


def _height(room: str, above: tuple[str, ...] = ()) -> int:
    assert room not in above, f"{' → '.join([*above, room])} is a circle"
    return 1 + max((_height(below, (*above, room)) for below in ROOMS_BELOW[room]), default=0)


def test_rooms_of_autotune_import_only_those_below_them():
    wrong, unused = [], {(room, below) for room, rooms in ROOMS_BELOW.items() for below in rooms}
    for path in sorted((ROOT / "autotune").rglob("*.py")):
        room = _room_of(name_of(path) if path.name != "__init__.py" else f"{name_of(path)}.x")
        for line, module in imported(path, members=True):
            other = _room_of(module)
            if other in (None, "", room):
                continue
            unused.discard((room, other))
            if other not in ROOMS_BELOW[room or ""]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)
    assert not unused, f"nothing needs {unused} any more"


def _room_of(module: str) -> str | None:
    """None for a module that is not autotune's."""
    parts = module.split(".")
    if parts[0] != "autotune":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS_BELOW else ""


def test_what_describes_an_operation_imports_no_backend():
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print(json.dumps(sorted(sys.modules)))"
    names = [f"kernel_templates.{name}" for name in ABSTRACT]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    backends = ("kernel_templates.cpu", "kernel_templates.cuda", "numba", "llvmlite", "triton")
    loaded = json.loads(done.stdout)
    assert "kernel_templates.matvec" in loaded
    assert not [name for name in loaded if name.startswith(backends)]


def test_formats_know_no_kernel():
    for path in (ROOT / "kernel_templates" / "formats").glob("*.py"):
        for line, module in imported(path):
            if module.startswith("kernel_templates."):
                allowed = module.startswith("kernel_templates.formats") or module == "kernel_templates.lazy"
                assert allowed, f"{path.name}:{line} imports {module}"


IMPORT_ALL = """
import gc, importlib, json, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
from numba.core.dispatcher import Dispatcher
compiled = [d.__qualname__ for d in gc.get_objects() if issubclass(type(d), Dispatcher) and d.overloads]
print(json.dumps({
    "cuda": torch.cuda.is_initialized(),
    "threads": [t.name for t in threading.enumerate()],
    "compiled": [n for n in compiled if n not in ("_run", "_close", "_serve")],
}))
"""


def test_importing_starts_nothing():
    """Except the three functions of a thread team, which numba keeps on disk, no code is compiled."""
    names = [name for name in map(name_of, modules()) if not name.endswith("__main__")]
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["threads"] == ["MainThread"]
    assert not found["cuda"]
    assert found["compiled"] == []
