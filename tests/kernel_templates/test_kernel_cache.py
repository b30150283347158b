"""Compiled kernels on disk: what decides a file's name, and what becomes of files that are not whole."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton._C.libtriton import native_specialize_impl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import make_backend  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402
from waiting import eventually  # noqa: E402

from kernel_templates.cuda import ahead, crosscompile, kernel_cache, signature  # noqa: E402
from kernel_templates.cuda.crosscompile import Compiled  # noqa: E402
from kernel_templates.cuda.kernel_cache import CompiledKernel  # noqa: E402
from kernel_templates.cuda.launch import HOPPER, OLDER, Launch  # noqa: E402

BACKEND = make_backend(GPUTarget("cuda", 90, 32))
KERNEL = CompiledKernel("add", b"code" * 99, 128, 4)


def add(x, count, EACH: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr):
    at = tl.arange(0, EACH)
    tl.store(x + at, tl.load(x + at, at < count) + 1, at < count)


JIT = JITFunction(add)  # under TRITON_INTERPRET `triton.jit` gives something else
PLAIN = JITFunction(add, do_not_specialize=["count"])


def launch(count: Any = 3, each: int = 32, warps: int = 4, dtype: Any = torch.float32, offset: int = 0) -> Launch:
    return Launch("add", JIT, (1,), (torch.zeros(64, dtype=dtype)[offset:], count), {"EACH": each}, warps)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    kernel_cache.software.cache_clear()
    yield
    kernel_cache.software.cache_clear()


def name(made: Launch, target=HOPPER, capability: int = 90) -> str:
    return kernel_cache.path(made, target, capability).name


VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(allow_nan=False, width=32), st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([0, 1, 16, -16, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 63]),
    st.builds(lambda d, at: torch.zeros(64, dtype=d)[at:], st.sampled_from([*signature.POINTERS]), st.integers(0, 9)),
)  # fmt: skip


@settings(max_examples=50)
@given(value=VALUES, special=st.booleans())
def test_arguments_specialize_as_triton_has_it(value: Any, special: bool) -> None:
    kind, key = native_specialize_impl(BACKEND, value, False, special, True)
    kernel = JIT if special else PLAIN
    found = signature.of(Launch("add", kernel, (1,), (torch.zeros(64), value), {"EACH": 32}), HOPPER)
    assert found.types["count"] == kind
    assert (1 in found.aligned) == (key == "D")
    assert kind != "constexpr" or found.constants["count"] is value or found.constants["count"] == value
    assert [i for i, _ in found.passed] == ([0] if kind == "constexpr" else [0, 1])


def test_what_changes_the_code_changes_the_name(monkeypatch) -> None:
    base = name(launch())
    assert name(launch()) == base and name(launch(count=5)) == base, "a value that is passed at the launch"
    others = [
        name(launch(count=16)), name(launch(count=1)), name(launch(count=None)), name(launch(count=1 << 40)),
        name(launch(each=64)), name(launch(warps=8)), name(launch(dtype=torch.float16)), name(launch(offset=1)),
        name(launch(), OLDER), name(launch(), HOPPER, 100),
    ]  # fmt: skip
    for variable, value in (("TRITON_PTXAS_PATH", "/other"), ("TRITON_DEFAULT_FP_FUSION", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            kernel_cache.software.cache_clear()
            others.append(name(launch()))
    with monkeypatch.context() as patch:
        patch.setattr(kernel_cache.sources, "digest", lambda: "another")
        kernel_cache.software.cache_clear()
        others.append(name(launch()))
    assert len({base, *others}) == 1 + len(others)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    kernel_cache.software.cache_clear()
    assert name(launch()) == base


def test_a_kernel_comes_back_as_it_was() -> None:
    file = kernel_cache.path(launch(), HOPPER, 90)
    assert kernel_cache.read(file) is None
    kernel_cache.write(file, KERNEL)
    assert kernel_cache.read(file) == KERNEL
    assert [f.name for f in file.parent.iterdir()] == [file.name]


@settings(max_examples=30)
@given(st.data())
def test_a_damaged_file_counts_as_none(tmp_path_factory, data) -> None:
    file: Path = tmp_path_factory.mktemp("kernels") / "k.cubin"
    kernel_cache.write(file, KERNEL)
    whole = file.read_bytes()
    if data.draw(st.booleans(), "cut"):
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert kernel_cache.read(file) is None


@pytest.mark.parametrize(
    "line", [b"[]", b"7", b"{}", b'{"name": 3, "shared": 0, "warps": 4}', b'{"name": "k", "shared": -1, "warps": 4}',
             b'{"name": "k", "shared": 0.5, "warps": 4}', b'{"name": "k", "shared": true, "warps": 4}', b"\xff",
             b'{"name": "k", "shared": 0, "warps": 0}', b'{"name": "k", "shared": 0, "warps": 33}',
             b'{"name": "k", "shared": 1048576, "warps": 4}', b'{"name": "k", "shared": 0, "warps": true}']
)  # fmt: skip
def test_a_file_that_says_something_else_counts_as_none(tmp_path: Path, line: bytes) -> None:
    import hashlib

    body = line + b"\ncode"
    (tmp_path / "k").write_bytes(hashlib.sha256(body).digest() + body)
    assert kernel_cache.read(tmp_path / "k") is None


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kernel_cache.write(tmp_path / "file" / "k.cubin", KERNEL)


def test_what_was_not_used_for_longest_goes_first(monkeypatch) -> None:
    files = [kernel_cache.file(f"{i:032x}") for i in range(4)]
    for age, file in enumerate(files):
        kernel_cache.write(file, KERNEL)
        os.utime(file, (time.time() - 100 * age,) * 2)
    assert kernel_cache.read(files[3]) is not None, "which makes it the newest"
    monkeypatch.setattr(kernel_cache, "MOST_BYTES", 2 * files[0].stat().st_size)
    kernel_cache.tidy()
    assert [file.exists() for file in files] == [True, False, False, True]


class Compiler:
    """Stands for Triton's: a second launch of a name fails; notes which process ran it, in a file."""

    def __init__(self, log: Path):
        self.log = log

    def __call__(self, made: Launch, target, capability: int) -> Compiled:
        with self.log.open("a") as log:
            log.write(f"{made.name} {os.getpid()}\n")
        if made.name == "dies":
            os._exit(3)
        if made.name == "broken":
            raise ValueError("no such instruction")
        time.sleep(0.05)
        return Compiled(made.name, "", made.name.encode(), 0, 4)

    @property
    def calls(self) -> list[tuple[str, int]]:
        return [(n, int(pid)) for n, pid in (line.split() for line in self.log.read_text().splitlines())]


def named(what: str, each: int) -> Launch:
    return Launch(what, JIT, (1,), (torch.zeros(64), 3), {"EACH": each})


def test_kernels_are_compiled_elsewhere_and_waited_for(monkeypatch, tmp_path: Path) -> None:
    compiler = Compiler(tmp_path / "log")
    monkeypatch.setattr(crosscompile, "compile_launch", compiler)
    launches = [named(f"k{i}", 32 << i) for i in range(5)]
    files = ahead.start([*launches, launches[0]], HOPPER, 90)
    assert len(files) == 5
    for made, file in zip(launches, files, strict=True):
        assert ahead.get(made, HOPPER, 90, file).name == made.name
    assert len(compiler.calls) == 5 and os.getpid() not in {pid for _, pid in compiler.calls}
    assert ahead.start(launches, HOPPER, 90) == files and len(compiler.calls) == 5


@pytest.mark.parametrize(("cores", "asked", "processes"), [(3, None, 3), (3, 1, 1), (1, 3, 3), (9, None, 5)])
def test_as_many_compile_side_by_side_as_may(
    monkeypatch, tmp_path: Path, cores: int, asked: int | None, processes: int
) -> None:
    """One a core unless another number is asked for, and never more than there are kernels."""
    monkeypatch.setattr(crosscompile, "compile_launch", Compiler(tmp_path / "log"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    launches = [named(f"k{i}", 32 << i) for i in range(5)]
    before = len(ahead._processes)
    files = ahead.start(launches, HOPPER, 90, asked)
    assert len(ahead._processes) - before == processes
    for made, file in zip(launches, files, strict=True):
        ahead.get(made, HOPPER, 90, file)


def test_whoever_does_not_wait_asks_whether_all_are_done(monkeypatch, tmp_path: Path) -> None:
    """Asked for again while they are on their way, they are not begun again; what fails elsewhere is done with too."""
    compiler, gate = Compiler(tmp_path / "log"), tmp_path / "gate"

    def compile_launch(*about: Any) -> Compiled:
        while not gate.exists():
            time.sleep(0.01)
        return compiler(*about)

    monkeypatch.setattr(crosscompile, "compile_launch", compile_launch)
    launches = [named("one", 32), named("broken", 64)]
    files = ahead.start(launches, HOPPER, 90)
    assert ahead.start(launches, HOPPER, 90) == files
    assert not ahead.done(files)
    gate.touch()
    assert eventually(lambda: ahead.done(files))
    assert files[0].exists() and not files[1].exists() and len(compiler.calls) == 2


def test_what_fails_elsewhere_is_compiled_again_here_and_told(monkeypatch, tmp_path: Path) -> None:
    compiler = Compiler(tmp_path / "log")
    monkeypatch.setattr(crosscompile, "compile_launch", compiler)
    broken = named("broken", 32)
    (file,) = ahead.start([broken], HOPPER, 90)
    with pytest.raises(ValueError, match="no such instruction"):
        ahead.get(broken, HOPPER, 90, file)
    assert [pid == os.getpid() for _, pid in compiler.calls] == [False, True]


def test_a_process_that_hangs_is_not_waited_for(monkeypatch, tmp_path: Path) -> None:
    here = os.getpid()
    compiler = Compiler(tmp_path / "log")

    def compile_launch(*about: Any) -> Compiled:
        if os.getpid() != here:
            time.sleep(60)
        return compiler(*about)

    monkeypatch.setattr(crosscompile, "compile_launch", compile_launch)
    monkeypatch.setattr(ahead, "LONGEST_S", 0.05)
    slow = named("slow", 32)
    (file,) = ahead.start([slow], HOPPER, 90)
    assert ahead.get(slow, HOPPER, 90, file).name == "slow"
    assert [pid for _, pid in compiler.calls] == [here] and not ahead._running()


def test_a_process_that_hangs_does_not_keep_all_from_being_done(monkeypatch, tmp_path: Path) -> None:
    """As long as others get something done, it is not given up."""
    compiler, here, now = Compiler(tmp_path / "log"), os.getpid(), [0.0]

    def compile_launch(made: Launch, *about: Any) -> Compiled:
        while made.name == "hangs" and os.getpid() != here:
            time.sleep(60)
        return compiler(made, *about)

    monkeypatch.setattr(crosscompile, "compile_launch", compile_launch)
    monkeypatch.setattr(ahead, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    hangs = named("hangs", 32)
    files = ahead.start([hangs, named("one", 64)], HOPPER, 90, 2)
    assert eventually(files[1].exists) and not ahead.done(files)
    now[0] += 1.5 * ahead.LONGEST_S
    assert not ahead.done(files)
    now[0] += 1.5 * ahead.LONGEST_S
    assert ahead.done(files) and eventually(lambda: not ahead._running())
    assert ahead.get(hangs, HOPPER, 90, files[0]).name == "hangs" and compiler.calls[-1] == ("hangs", here)


def test_processes_that_die_cost_time_alone(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(crosscompile, "compile_launch", Compiler(tmp_path / "log"))
    after = named("after", 64)
    files = ahead.start([named("dies", 32), after], HOPPER, 90)
    assert ahead.get(after, HOPPER, 90, files[1]).name == "after"
