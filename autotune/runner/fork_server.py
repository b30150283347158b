"""A process that has imported everything and forks workers on request: each is there in milliseconds, not in seconds.

A dozen workers that import torch and Triton side by side take 5 to 10 seconds, a tenth of a tuning run, and so does one
that replaces a worker a candidate has killed. The nursery never touches CUDA, which would not survive a fork, and has
one thread. Run as `python -m autotune.runner.fork_server FD`, FD being a Unix socket. Messages on it are packets:

    "fork DEVICE", with a pipe's descriptor -> the child's process number
    "wait PID"                              -> its exit status as subprocess counts it, or RUNNING
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from autotune.runner.process_group import die_with_parent, end_group, status_of

COMMAND = (sys.executable, "-m", "autotune.runner.fork_server")
PACKET = 256  # bytes; a message is far shorter
RUNNING = 1 << 20
START_S = 120.0  # importing torch and Triton from a cold disk


class Child:
    """A forked worker, as subprocess.Popen shows a process. `pid` is known once the nursery has forked it."""

    def __init__(self, nursery: "ForkServer"):
        self._nursery = nursery
        self.pid: int | None = None
        self._status: int | None = None

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(OSError):
                end_group(self._nursery.pid_of(self))

    def poll(self) -> int | None:
        """Its exit status, None while it runs; a child of a nursery that is gone counts as killed."""
        if self._status is None:
            try:
                status = self._nursery.ask(f"wait {self._nursery.pid_of(self)}")
            except OSError:
                status = -signal.SIGKILL
            self._status = None if status == RUNNING else status
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(COMMAND, timeout or 0.0)
            time.sleep(0.005)
        return status


class ForkServer:
    """The parent's side: a context manager. It imports while others go on: forks are answered when it has."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self._unborn: deque[Child] = deque()

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        with theirs:
            self._process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # a process that has threads should not fork
            )
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._socket is not None and self._process is not None
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def fork(self, descriptor: int, device: str) -> Child:
        """A worker on that pipe, without waiting for it. Raises OSError when the nursery is gone."""
        assert self._socket is not None
        socket.send_fds(self._socket, [f"fork {device}".encode()], [descriptor])
        self._unborn.append(Child(self))
        return self._unborn[-1]

    def pid_of(self, child: Child) -> int:
        """Raises OSError when the nursery is gone."""
        while child.pid is None:
            self._unborn[0].pid = self._answer()
            self._unborn.popleft()
        return child.pid

    def ask(self, message: str) -> int:
        """Raises OSError when the nursery is gone."""
        assert self._socket is not None
        while self._unborn:  # answers come in order
            self.pid_of(self._unborn[-1])
        self._socket.send(message.encode())
        return self._answer()

    def _answer(self) -> int:
        assert self._socket is not None
        if answer := self._socket.recv(PACKET):
            return int(answer)
        raise OSError("the process that starts workers has ended")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    requests = socket.socket(fileno=int(sys.argv[1]))
    preload()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, PACKET, 1)
        if not message:
            return
        name, _, argument = message.decode().partition(" ")
        if name == "fork":
            child = os.fork()
            if child == 0:
                requests.close()
                be_a_worker(descriptors[0], argument)
            os.close(descriptors[0])
            requests.send(str(child).encode())
        else:
            status = status_of(int(argument))
            requests.send(str(RUNNING if status is None else status).encode())


def preload() -> None:
    """What workers import sooner or later, as far as it leaves the GPU alone: compiling something imports the rest."""
    from autotune.runner import compile_worker, cuda_worker  # noqa: F401
    from autotune.runner.meta_problem import MetaProblem
    from kernel_templates import registry
    from kernel_templates.cuda.crosscompile import cross_compile
    from kernel_templates.device import Device

    with suppress(Exception):
        for op in registry.OPERATIONS:
            registry.cuda(op)
        problem = registry.parse_problem("matvec:rows=64,cols=64,format=Q8_0,activation=int16")
        config = registry.cuda_space(problem, Device("cuda", "any", "8.0", 1, 1 << 30)).default
        for launch in MetaProblem(problem).launches(config):
            cross_compile(launch, 80)


def be_a_worker(descriptor: int, device: str) -> None:
    """Serve as `autotune.runner.worker` does, and end with it: nothing of the nursery may go on in a child."""
    from autotune.runner.worker import backend, serve

    status = 1
    try:
        die_with_parent()
        serve(Connection(descriptor), backend, device)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
