"""Processes of tests that run our own functions: forked by one that has imported what they need, so that each begins
in milliseconds instead of 3 s. The first one waits for those imports."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["autotune.tuning.tune_model", "autotune.samplers.shared_search", "kernel_templates.matvec.cpu"]
)


class Forked:
    """A process that runs `function(say, *arguments)`, where `say` sends an object here, with this one's environment.

    Both must be found by name, as multiprocessing wants it.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any):
        self._said, theirs = _processes.Pipe(duplex=False)
        self.process = _processes.Process(target=_run, args=(dict(os.environ), theirs, function, arguments))
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def hear(self) -> Any:
        """The next thing it says. Raises EOFError once it has ended."""
        return self._said.recv()

    def rest(self) -> list[Any]:
        """What else it says until it ends."""
        found = []
        try:
            while True:
                found.append(self.hear())
        except (EOFError, ConnectionResetError):
            return found

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        """Its exit status; -9 of one that was killed."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def _run(environment: Mapping[str, str], pipe: Connection, function: Callable[..., object], arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(pipe.send, *arguments)
