"""A kernel is compiled once: the next process loads it from disk, unless what it was compiled from has changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_templates import registry
from kernel_templates.cpu import compile as compiling
from kernel_templates.cpu import machine
from kernel_templates.matvec import cpu
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config

HARNESS = Path(__file__).parent
FRESH_PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from kernel_harness import Built
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.registry import parse_problem
built = [Built(parse_problem(key)) for key in sys.argv[2:]]
with ThreadPool(2) as team:
    print(json.dumps([(b.kernel.compile_s, b.error(1, team), b.operation.tolerance(b.problem)) for b in built]))
"""


def in_a_process(folder: Path, *problems: Matvec) -> list[float]:
    """Run each problem's kernel in a new process, against the reference; the seconds spent compiling each."""
    env = {**os.environ, "AUTOTUNE_CACHE": str(folder)}
    env.pop("AUTOTUNE_NO_KERNEL_CACHE", None)
    command = [sys.executable, "-c", FRESH_PROCESS, str(HARNESS), *(p.key for p in problems)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert all(error <= tolerance for _, error, tolerance in results)
    return [compile_s for compile_s, _, _ in results]


def compiled(problem: Matvec, config: Config | None = None) -> compiling.Kernel:
    chosen = config or registry.cpu_space(problem, machine.features()).default
    return cpu.compile(problem, chosen, machine.features())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    monkeypatch.delenv("AUTOTUNE_NO_KERNEL_CACHE", raising=False)
    return tmp_path


def kernels(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kernel"))


def test_a_process_loads_what_two_others_compiled(tmp_path):
    """Both kernels hold functions of one name; loaded side by side, each must still call its own."""
    one, other = Matvec(40, 64, "Q4_0"), Matvec(40, 96, "Q4_0", "int8")
    assert in_a_process(tmp_path, one)[0] > 0
    assert in_a_process(tmp_path, other)[0] > 0
    assert in_a_process(tmp_path, one, other) == [0, 0]


def test_no_cache_on_request(folder, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_NO_KERNEL_CACHE", "1")
    for _ in range(2):
        assert compiled(Matvec(42, 64, "F16")).compile_s > 0
    assert kernels(folder) == []


def test_another_problem_or_config_is_another_kernel(folder):
    problem = Matvec(43, 64, "F16")
    assert compiled(problem).compile_s > 0
    assert compiled(problem).compile_s == 0
    assert compiled(Matvec(44, 64, "F16")).compile_s == 0, "nothing in the code depends on the number of rows"
    assert compiled(Matvec(43, 96, "F16")).compile_s > 0
    default = registry.cpu_space(problem, machine.features()).default
    assert compiled(problem, Config({**default, "lanes": 16})).compile_s > 0
    assert len(kernels(folder)) == 2 + 2 + 1, "a body and its loops for each width, and the loops for 16 lanes"


def test_changed_sources_compile_again(folder, monkeypatch):
    problem = Matvec(45, 64, "F16")
    compiled(problem)
    monkeypatch.setattr(compiling, "_sources", lambda: "edited")
    assert compiled(problem).compile_s > 0
    assert compiled(problem).compile_s == 0


@pytest.mark.parametrize("damage", [b"", b"not a kernel", None], ids=["empty", "foreign", "cut"])
def test_a_damaged_entry_is_compiled_again(folder, damage):
    problem = Matvec(46, 64, "F16")
    compiled(problem)
    for path in kernels(folder):
        path.write_bytes(path.read_bytes()[:500] if damage is None else damage)
    assert compiled(problem).compile_s > 0
    assert compiled(problem).compile_s == 0


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("AUTOTUNE_CACHE", str(blocked))
    kernel = compiled(Matvec(47, 64, "F16"))
    assert kernel.address and kernel.compile_s > 0


def test_a_kernel_that_does_not_compile_says_so():
    from numba.core.errors import NumbaError

    def broken(arguments, sync, thread, threads):
        return arguments.nonsense

    with pytest.raises(NumbaError):
        compiling.compile_kernel(broken, "test broken")
