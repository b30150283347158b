"""The parent's side of a worker: start, ask, wait no longer than allowed, and start anew after a death."""

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.runner import python_process
from autotune.runner.channel import Channel, Garbled, Late
from autotune.runner.fork_server import ForkedWorker, ForkServer
from autotune.runner.process_group import GroupLeader

if TYPE_CHECKING:  # else a measurer began a tenth of a second later
    from autotune.runner.protocol import Reply, Request


class WorkerDied(Exception):
    """The process ended while it was answering, or what it answered was no answer; the message says how. killed:
    whether by SIGKILL, which no process gets by its own doing: the system was out of memory, or a user killed it."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class WorkerTimedOut(Exception):
    """The process did not answer in time and was killed."""


DYING_S = 1.0  # from the end of its pipe to that of a process
SEND_S = 10.0  # that a worker which is idle may take to read a request
START_S = 120.0  # importing torch, numba and Triton on a cold disk, all workers at once
PROGRAM = tuple(python_process.python_command("autotune.runner.worker"))
MEASURER = tuple(python_process.python_command("autotune.runner.measurer"))  # of a GPU
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of a process beside those that compile: there is one for almost every core


class Worker:
    """One worker process, started when first needed. `program`: the command that, with the number of a pipe after it,
    serves the requests of `autotune.runner.protocol`."""

    def __init__(
        self,
        program: Sequence[str] = PROGRAM,
        environment: Mapping[str, str] | None = None,
        target: str = "",
        fork_server: ForkServer | None = None,
    ) -> None:
        """environment: variables of the process beside ours; target: whose backend it makes before it is asked;
        fork_server: forks the process instead of starting `program`, from the next start on."""
        self._program = tuple(program)
        self._environment = dict(environment or {})
        self.target, self.fork_server = target, fork_server
        self._process: GroupLeader | ForkedWorker | None = None
        self._pipe: Channel | None = None
        self._started = False
        self.answered = 0  # requests since it started

    def start(self) -> None:
        """Start the process without waiting for it."""
        if self._process is not None:
            return
        self._pipe, self._started, self.answered = Channel(), False, 0
        with self._pipe.theirs as theirs:
            self._process = self._begin(theirs.fileno())

    def _begin(self, descriptor: int) -> GroupLeader | ForkedWorker:
        if self.fork_server is not None:
            with contextlib.suppress(OSError):  # it is gone: then without
                return self.fork_server.fork(descriptor, self.target)
        command = [*self._program, str(descriptor), self.target]
        return GroupLeader(python_process.start(command, descriptor, self._environment))

    def send(self, request: "Request") -> None:
        """Ask; the reply is fetched with `reply`. Raises WorkerDied."""
        self.start()
        assert self._pipe is not None
        if not self._started:
            self._receive(START_S)
            self._started = True
        elif self._pipe.anything():  # it ended since, or a candidate wrote what no request had asked for
            raise self._died("the worker wrote to its pipe unasked")
        try:
            self._pipe.send(request, SEND_S)
        except OSError as gone:
            raise self._died() from gone

    @property
    def pipe(self) -> Channel | None:
        """What becomes readable when there is news: that the process has started, a reply, or its end."""
        return self._pipe

    def started(self) -> bool:
        """Whether a request would be read at once; never waits. Raises WorkerDied if it ended before it began."""
        if self._pipe is not None and not self._started and self._pipe.poll():
            self._receive(0)
            self._started = True
        return self._pipe is not None and self._started

    def reply(self, timeout_s: float) -> "Reply":
        """To what was sent. Raises WorkerDied or WorkerTimedOut; either way the next request starts anew."""
        found = self._receive(timeout_s)
        self.answered += 1
        return found

    def ask(self, request: "Request", timeout_s: float) -> "Reply":
        """Send and wait for the reply. Raises WorkerDied or WorkerTimedOut."""
        self.send(request)
        return self.reply(timeout_s)

    def kill(self) -> None:
        """Have the process end, without waiting for that; `stop` must follow."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Kill the process. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._pipe is not None
            self._pipe.close()
            self._process = self._pipe = None

    def _receive(self, timeout_s: float) -> "Reply":
        assert self._pipe is not None and self._process is not None
        try:
            return self._pipe.receive(timeout_s)
        except Late:
            if self._process.poll() is not None:  # something it started holds its pipe open
                raise self._died() from None
            self.stop()
            raise WorkerTimedOut(f"no answer within {timeout_s:.0f} s") from None
        except Garbled as garbage:
            self.stop()
            raise WorkerDied(f"the worker was stopped: {garbage}") from None
        except (EOFError, OSError) as gone:
            raise self._died() from gone

    def _died(self, otherwise: str = "the worker closed its pipe") -> WorkerDied:
        """What to raise; `otherwise`: why, if it has not ended by itself."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_S)
        code = self._process.poll()
        self.stop()
        if code is None:
            return WorkerDied(otherwise)
        if code >= 0:
            return WorkerDied(f"the worker ended ({code})")
        return WorkerDied(f"the worker died by signal {-code}", killed=code == -signal.SIGKILL)


_begun: list[Worker] = []  # a measurer


def begin_measurer(target: str) -> None:
    """Start the process that measures on GPU `target` for the next pool of this process, since it is ready last: it
    imports, and the GPU's context starts, while the caller imports for itself and looks at the model."""
    if not _begun:
        _begun.append(Worker(MEASURER, ONE_THREAD, target))
        _begun[0].start()


def begun_measurer(target: str) -> Worker | None:
    """The one that was begun, if it is for this target."""
    found = _begun.pop() if _begun else None
    if found is not None and found.target != target:
        found.stop()
        return None
    return found
