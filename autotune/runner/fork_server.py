"""A process that has imported everything and forks workers on request: each is there in milliseconds, not in seconds.

A dozen workers that import torch and Triton side by side take 5 to 10 seconds, a tenth of a tuning run, and so does one
that replaces a worker a candidate has killed. The server never touches CUDA, which would not survive a fork, and has
one thread. Run as `python -m autotune.runner.fork_server FD`, FD being a Unix socket of packets, each a pickled `Fork`
or `Poll` with `Forked` or `Polled` for an answer.

Not multiprocessing's "forkserver" (tried, docs/log.md): its Process.start blocks until the server has imported all, its
children run the parent's main program again, which a program without a main guard does not survive, a child is reaped
before what it started can be killed with it, and the server has no public way to end with a tuning run.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from autotune.runner import preload, python_process
from autotune.runner.process_group import die_with_parent, end_group, status_of

COMMAND = python_process.python_command("autotune.runner.fork_server")
PACKET = 4096  # bytes; a message is far shorter
START_S = 120.0  # importing torch and Triton from a cold disk


@dataclass(frozen=True)
class Fork:
    """Fork a worker that serves the pipe whose descriptor comes with this; target: whose backend it makes at once."""

    target: str


@dataclass(frozen=True)
class Forked:
    pid: int


@dataclass(frozen=True)
class Poll:
    """Ask for the exit status of a worker."""

    pid: int


@dataclass(frozen=True)
class Polled:
    """status: as subprocess counts it, None while it runs."""

    status: int | None


class ForkedWorker:
    """A forked worker, as subprocess.Popen shows a process. `pid` is known once the server has forked it."""

    def __init__(self, server: "ForkServer"):
        self._server = server
        self.pid: int | None = None
        self._status: int | None = None

    def kill(self) -> None:
        """Have it end with its process group, without waiting."""
        if self.poll() is None:
            with suppress(OSError):
                end_group(self._server.pid_of(self))

    def poll(self) -> int | None:
        """Its exit status, None while it runs; a worker whose server is gone counts as killed."""
        if self._status is None:
            try:
                self._status = self._server.status_of(self)
            except OSError:
                self._status = -signal.SIGKILL
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(COMMAND, timeout or 0.0)
            time.sleep(0.005)
        return status


_begun: "list[ForkServer]" = []


def begin() -> None:
    """Start a server that the next worker pool of this process has: it imports while the caller looks at the model."""
    if not _begun:
        _begun.append(ForkServer().start())


def begun() -> "ForkServer":
    """The one that was begun, else a new one."""
    return _begun.pop() if _begun else ForkServer()


class ForkServer:
    """The parent's side: a context manager. It imports while the parent goes on: forks are answered when it has."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self._awaited: deque[ForkedWorker] = deque()  # those whose numbers were not received yet

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def start(self) -> Self:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        with theirs:  # a process that has threads should not fork
            command = [*COMMAND, str(theirs.fileno())]
            self._process = python_process.start(command, theirs.fileno(), {"OMP_NUM_THREADS": "1"})
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._socket is not None and self._process is not None
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def fork(self, descriptor: int, target: str) -> ForkedWorker:
        """A worker on that pipe, without waiting for it. Raises OSError when the server is gone."""
        assert self._socket is not None
        socket.send_fds(self._socket, [pickle.dumps(Fork(target))], [descriptor])
        self._awaited.append(ForkedWorker(self))
        return self._awaited[-1]

    def pid_of(self, worker: ForkedWorker) -> int:
        """Raises OSError when the server is gone."""
        while worker.pid is None:
            self._awaited[0].pid = self._receive(Forked).pid
            self._awaited.popleft()
        return worker.pid

    def status_of(self, worker: ForkedWorker) -> int | None:
        """Its exit status, None while it runs. Raises OSError when the server is gone."""
        assert self._socket is not None
        pid = self.pid_of(worker)
        while self._awaited:  # answers come in order
            self.pid_of(self._awaited[-1])
        self._socket.send(pickle.dumps(Poll(pid)))
        return self._receive(Polled).status

    def _receive(self, kind: type) -> Any:
        assert self._socket is not None
        if packet := self._socket.recv(PACKET):
            answer = pickle.loads(packet)
            assert isinstance(answer, kind)
            return answer
        raise OSError("the process that starts workers has ended")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    requests = socket.socket(fileno=int(sys.argv[1]))
    preload.everything()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(requests, PACKET, 1)
        if not packet:
            return
        request = pickle.loads(packet)
        if isinstance(request, Fork):
            child = os.fork()
            if child == 0:
                requests.close()
                be_a_worker(descriptors[0], request.target)
            os.close(descriptors[0])
            requests.send(pickle.dumps(Forked(child)))
        else:
            requests.send(pickle.dumps(Polled(status_of(request.pid))))


def be_a_worker(descriptor: int, target: str) -> None:
    """Serve as `autotune.runner.worker` does, and end with it: nothing of the server may go on in a child."""
    from autotune.runner.worker import serve_pipe

    status = 1
    try:
        die_with_parent()
        serve_pipe(descriptor, target)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    from autotune.runner import fork_server  # whose classes the parent's messages name, not those of __main__

    fork_server.main()
