"""The process in which candidates live. Run as `python -m autotune.runner.worker FD [TARGET]`; talks over one pipe.

It answers the requests of `autotune.runner.protocol`, each by the backend of its target. The parent may kill this
process at any time, and it ends by itself when the parent does. Ctrl-C is the parent's business. When candidates have
left it with more than half of the machine's memory it ends after its reply, and another one is started.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

from autotune.runner.process_group import die_with_parent
from autotune.runner.protocol import Backend, Failed, FailedToCompile, Failure, Poisoned, Reply, Started, TargetRequest

COMPILER_ERRORS = ("CompilationError", "PTXASError", "OutOfResources", "CompileTimeAssertionFailure")


def backend(target: str) -> Backend:
    """What serves "cpu", "cuda:0" or "sm90"; imported here, so that one does not pay for the other."""
    if target == "cpu":
        from autotune.runner.cpu_worker import CpuBackend

        return CpuBackend()
    if target.startswith("sm"):
        from autotune.runner.compile_worker import CompileBackend

        return CompileBackend(int(target.removeprefix("sm")))
    from autotune.runner.cuda_worker import CudaBackend
    from kernel_templates.cuda import machine

    return CudaBackend(machine.index_of(target))


def serve(pipe: Connection, make: Callable[[str], Backend], first: str = "", most_bytes: int | None = None) -> None:
    """Answer requests until the parent is gone or CUDA is, or the process has grown beyond `most_bytes`, half of the
    machine's memory if None. first: a target whose backend is made before there are requests."""
    most = psutil.virtual_memory().total // 2 if most_bytes is None else most_bytes
    backends: dict[str, Backend] = {}
    current: Backend | None = None
    pipe.send(Started(os.getpid()))
    if first:
        with suppress(Exception):  # the first request for it will be told why
            backends[first] = make(first)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            return
        reply: Reply
        try:
            if isinstance(request, TargetRequest):
                if request.target not in backends:
                    backends[request.target] = make(request.target)
                current = backends[request.target]
            if current is None:
                raise RuntimeError("no problem is open")
            reply = current.answer(request)
        except Exception as error:
            reply = failure(error)
        pipe.send(reply)
        if isinstance(reply, Poisoned) or psutil.Process().memory_info().rss > most:
            os._exit(1)  # nothing on the GPU can be put away any more, and nothing else needs to be


def failure(error: Exception) -> Failure:
    """The reply to a request that raised `error`."""
    text = str(error).strip().splitlines() or [""]
    message = f"{type(error).__name__}: {text[0]}"[:400]
    if poisons(error):
        return Poisoned(message)
    if type(error).__name__ in COMPILER_ERRORS:
        # The first line says where; what is wrong comes at the end.
        return FailedToCompile(f"{type(error).__name__}: {' '.join([text[0], text[-1]])}"[:400])
    return Failed(message)


def poisons(error: Exception) -> bool:
    """Whether CUDA is unusable in this process after `error`: a kernel that read or wrote where it must not."""
    text = str(error)
    if not isinstance(error, RuntimeError) or "out of memory" in text:
        return False
    signs = ("CUDA error", "illegal memory access", "misaligned address", "illegal address", "illegal instruction")
    return any(sign in text for sign in (*signs, "launch failure", "device-side assert", "illegal barrier"))


def serve_pipe(descriptor: int, target: str) -> None:
    """Answer what comes through the pipe with this number; target: whose backend is made before there are requests."""
    serve(Connection(descriptor), backend, target)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    serve_pipe(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")


if __name__ == "__main__":
    main()
