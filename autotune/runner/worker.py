"""The process in which candidates live. Run as `python -m autotune.runner.worker FD [DEVICE]`; talks over one pipe.

Requests and replies are tuples; the first element names the request, and "compile", "inspect", "draw" and "open" name
the backend next: "cpu", "cuda:0", or "sm90" for what is compiled for a GPU of that capability without touching one. The
parent may kill this process at any time, and it ends by itself when the parent does. Ctrl-C is the parent's business.
When candidates have left it with more than half of the machine's memory it ends after its answer, and another one is
started.

A reply to any request may be ("failed", message); ("failed_to_compile", message) when Triton says so; ("poisoned",
message) when a kernel has broken CUDA for this process, which ends with it.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

from autotune.runner.process_group import die_with_parent

COMPILER_ERRORS = ("CompilationError", "PTXASError", "OutOfResources", "CompileTimeAssertionFailure")


def backend(device: str) -> Any:
    """What serves "cpu", "cuda:0" or "sm90"; imported here, so that one does not pay for the other."""
    if device == "cpu":
        from autotune.runner.cpu_worker import OnCpu

        return OnCpu()
    if device.startswith("sm"):
        from autotune.runner.compile_worker import Builder

        return Builder(int(device.removeprefix("sm")))
    from autotune.runner.cuda_worker import OnCuda
    from kernel_templates.cuda import machine

    return OnCuda(machine.index_of(device))


def serve(pipe: Connection, make: Callable[[str], Any], first: str = "", most_bytes: int | None = None) -> None:
    """Answer requests until the parent is gone or CUDA is, or the process has grown beyond `most_bytes`, half of the
    machine's memory if None. first: a backend to make before there are requests."""
    most = psutil.virtual_memory().total // 2 if most_bytes is None else most_bytes
    backends: dict[str, Any] = {}
    current: Any = None
    pipe.send(("started", os.getpid()))
    if first:
        with suppress(Exception):  # whoever asks for it will hear why
            backends[first] = make(first)
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, OSError):
            return
        reply: tuple
        try:
            if name in ("compile", "inspect", "draw", "open"):
                device, *arguments = arguments
                if device not in backends:
                    backends[device] = make(device)
                current = backends[device]
            if current is None:
                raise RuntimeError("no problem is open")
            reply = getattr(current, name)(*arguments)
        except Exception as problem:
            reply = _failure(problem)
        pipe.send(reply)
        if reply[0] == "poisoned" or psutil.Process().memory_info().rss > most:
            os._exit(1)  # nothing on the GPU can be put away any more, and nothing else needs to be


def _failure(problem: Exception) -> tuple[str, str]:
    text = str(problem).strip().splitlines() or [""]
    message = f"{type(problem).__name__}: {text[0]}"[:400]
    if "autotune.runner.cuda_worker" in sys.modules:
        from autotune.runner.cuda_candidate import poisons

        if poisons(problem):
            return ("poisoned", message)
    if type(problem).__name__ in COMPILER_ERRORS:
        # The first line says where; what is wrong comes at the end.
        return ("failed_to_compile", f"{type(problem).__name__}: {' '.join([text[0], text[-1]])}"[:400])
    return ("failed", message)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    serve(Connection(int(sys.argv[1])), backend, sys.argv[2] if len(sys.argv) > 2 else "")


if __name__ == "__main__":
    main()
