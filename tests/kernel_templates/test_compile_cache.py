"""A kernel is compiled once: the next process loads it from disk, unless what it was compiled from has changed."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forked import Forked
from kernel_harness import Built

from kernel_templates import registry
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import compile as compiling
from kernel_templates.cpu import machine, row_attention
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.matmul import cpu as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matvec import cpu
from kernel_templates.matvec.problem import Matvec
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.registry import parse_problem
from kernel_templates.space import Config


def build(say: Callable[[object], None], wanted: Sequence[tuple[str, dict]], runs: bool) -> None:
    """Compile or load kernels; says the seconds that each took to compile, and if it `runs` them side by side, whether
    each gives what the reference does."""
    built = [Built(parse_problem(key), Config(config)) for key, config in wanted]
    right = []
    if runs:
        with ThreadPool(2) as team:
            right = [b.error(1, team) <= b.operation.tolerance_on("cpu", b.problem) for b in built]
    say(([b.kernel.compile_s for b in built], right))


def in_processes(*jobs: Sequence[tuple[Matvec, Config]], runs: bool) -> list[tuple[list, list]]:
    """What `build` says of each job, all at a time: a process numbers its symbols for itself."""
    wanted = [[(problem.key, dict(config)) for problem, config in job] for job in jobs]
    return [process.hear() for process in [Forked(build, job, runs) for job in wanted]]


def default(problem: Matvec) -> Config:
    return registry.cpu_space(problem, machine.features()).default


def compiled(problem: Matvec, config: Config | None = None) -> compiling.Kernel:
    return cpu.compile(problem, config or default(problem), machine.features())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    monkeypatch.delenv("AUTOTUNE_NO_KERNEL_CACHE", raising=False)
    return tmp_path


def kernels(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kernel"))


def test_a_process_loads_what_others_compiled(folder):
    """Their kernels hold functions of one name each. A loader that trusted names once ran the wrong one and crashed:
    side by side, each must still call its own."""
    jobs = [(Matvec(40, 64, "Q4_0"), {}), (Matvec(40, 64, "Q4_0"), {"lanes": 32}), (Matvec(40, 96, "Q4_0", "int8"), {})]
    built = [(problem, Config({**default(problem), **changes})) for problem, changes in jobs]
    assert all(compile_s > 0 for (compile_s,), _ in in_processes(*([job] for job in built), runs=False))
    assert in_processes(built, runs=True) == [([0, 0, 0], [True] * 3)]


def test_a_new_process_loads_kernels_of_many_rows(monkeypatch):
    """One that may raise needs symbols which numba brings along only when it compiles: each process would again. Others
    compile these too, and keep them in the folder that all share."""
    asked, path = [], compiling._path
    monkeypatch.setattr(compiling, "_path", lambda *about: asked.append(path(*about)) or asked[-1])
    for problem in (Matmul(83, 96, "Q4_0", 3), Matmul(83, 96, "Q4_0", 37)):  # decoded in registers, and through panels
        matmul.compile(problem, default(problem), machine.features())
    row_attention.compile(row_attention.RowAttention(2, 1, 64, 0.125), machine.features())
    assert len(set(asked)) > 6
    code = "import sys; from kernel_templates.cpu.compile import _load; from pathlib import Path\n"
    code += "print(sum(_load(Path(name)) is None for name in sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, asked)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "0"


def first_kernel(*formats: str) -> NormQkvRope:
    return NormQkvRope(32, 1, 1, 16, 16, 0, *formats)


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        (Attention(1, 1, 16, 100), Attention(1, 1, 16, 300), 1),
        (first_kernel("F32", "F32", "F32"), first_kernel("F16", "F16", "F16"), 1 + 2),
        (first_kernel("F32", "F32", "F32"), first_kernel("F32", "F32", "F16"), 2 + 2),
    ],
)
def test_what_the_code_does_not_depend_on_is_no_other_kernel(folder, one, other, count):
    """The context; formats that are multiplied with activations of one kind, which have loops of their own, as long as
    as many matrices are packed as one."""
    for problem in (one, other):
        registry.cpu(problem.op).compile(problem, default(problem), machine.features())
    assert len(kernels(folder)) == count


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
    assert compiled(problem, Config({**default(problem), "lanes": 32})).compile_s > 0
    assert len(kernels(folder)) == 2 + 2 + 1, "a body and its loops for each width, and the loops for 32 lanes"


def test_changed_sources_compile_again(folder, monkeypatch):
    problem = Matvec(45, 64, "F16")
    compiled(problem)
    monkeypatch.setattr(compiling, "software", lambda: "edited")
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
