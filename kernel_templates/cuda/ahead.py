"""Kernels compiled ahead of their first launch: in processes of their own, side by side, while this one goes on.

The processes are forked, so that they have the kernels and the compiler in memory already; they leave what they make in
`kernel_cache` and never touch the GPU. A launch whose kernel is on its way waits for it.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_templates.cuda import kernel_cache
from kernel_templates.cuda.kernel_cache import CompiledKernel

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Launch, Target

MOST = 255  # kernels at once: a byte in a pipe numbers each
PR_SET_PDEATHSIG = 1
LOOK_S = 0.005  # between two looks for a file
LONGEST_S = 60.0
"""That a kernel is waited for, or any of those on their way; on a busy machine one takes ten. What takes longer hangs,
and is compiled here."""

_making: set[Path] = set()
"""Files that processes were asked for."""
_processes: list[int] = []
_missing, _looked = 0, 0.0
"""How many of those files were not there at the last look, and when that was."""


def start(launches: Iterable["Launch"], target: "Target", capability: int, processes: int | None = None) -> list[Path]:
    """Begin to compile the kernels that are not on disk; the files of all, whether they were or not. Tensors may be
    torch's "meta" ones. processes: how many compile side by side, else one a core."""
    asked = {kernel_cache.path(launch, target, capability): launch for launch in launches}
    missing = {file: launch for file, launch in asked.items() if not file.exists() and file not in _making}
    work = list(missing.items())[:MOST]
    if work:
        _start(work, target, capability, processes or len(os.sched_getaffinity(0)))
    return list(asked)


def done(files: Iterable[Path]) -> bool:
    """Whether none of these is on its way: each is there, or was given up, and is compiled when it is launched."""
    if all(file.exists() for file in files) or not _running():
        return True
    hang = time.monotonic() - _looked > LONGEST_S and not _look()
    if hang:
        stop()
    return hang


def get(launch: "Launch", target: "Target", capability: int, file: Path) -> CompiledKernel:
    """The kernel of a launch, from its file: there already, on its way, or compiled now. Raises what Triton's compiler
    raises."""
    return kernel_cache.read(file) or _awaited(file) or kernel_cache.make(launch, target, capability, file)


def _start(work: Sequence[tuple[Path, "Launch"]], target: "Target", capability: int, processes: int) -> None:
    from kernel_templates.cuda import crosscompile  # noqa: F401 - in memory before there are many of it

    queue, end = os.pipe()
    os.write(end, bytes(range(len(work))))
    os.close(end)
    for _ in range(min(len(work), processes)):
        child = os.fork()
        if child == 0:
            _work(queue, work, target, capability)
        _processes.append(child)
    os.close(queue)
    _making.update(file for file, _ in work)
    _look()


def _work(queue: int, work: Sequence[tuple[Path, "Launch"]], target: "Target", capability: int) -> None:
    """Compile what the queue numbers until it is empty, then end: nothing of the parent may go on in a child."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        while number := os.read(queue, 1):
            file, launch = work[number[0]]
            with suppress(Exception):  # the parent compiles it again, and tells
                kernel_cache.make(launch, target, capability, file)
    finally:
        os._exit(0)


def _awaited(file: Path) -> CompiledKernel | None:
    """What a process makes, once it is there; None where none does, or all have ended without it."""
    began = time.monotonic()
    while file in _making:
        ended = not _running()
        if found := kernel_cache.read(file):
            return found
        if not ended and time.monotonic() - began > LONGEST_S:
            stop()
        elif ended:
            _making.clear()
        time.sleep(LOOK_S)
    return None


def _look() -> bool:
    """Whether the number of files that are still to come is another one than at the last look."""
    global _missing, _looked
    before, _missing, _looked = _missing, sum(not file.exists() for file in _making), time.monotonic()
    return _missing != before


def stop() -> None:
    """End the processes; what they had not made is compiled when it is launched."""
    for child in _processes:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _running() -> bool:
    """Whether any process still compiles; those that ended are forgotten."""
    for child in list(_processes):
        with suppress(ChildProcessError):
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                continue
        _processes.remove(child)
    return bool(_processes)
