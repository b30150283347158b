"""The parent's side of a worker: start, ask, wait no longer than allowed, and start anew after a death."""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait


class WorkerDied(Exception):
    """The process ended while it was answering; the message says how."""


class WorkerTimedOut(Exception):
    """The process did not answer in time and was killed."""


START_S = 60.0  # importing torch and numba on a cold disk


class Worker:
    """One worker process, started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._pipe: Connection | None = None
        self._started = False

    def start(self) -> None:
        """Start the process without waiting for it."""
        if self._process is not None:
            return
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autotune.measure.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._pipe, self._started = ours, False

    def send(self, *request) -> None:
        """Ask; the answer is fetched with `answer`. Raises WorkerDied."""
        self.start()
        assert self._pipe is not None
        if not self._started:
            self._receive(START_S)
            self._started = True
        try:
            self._pipe.send(request)
        except OSError as gone:
            raise self._died() from gone

    def answer(self, timeout_s: float) -> tuple:
        """The reply to what was sent. Raises WorkerDied or WorkerTimedOut; either way the next request starts anew."""
        return self._receive(timeout_s)

    def request(self, *request, timeout_s: float) -> tuple:
        """Send and wait for the answer."""
        self.send(*request)
        return self.answer(timeout_s)

    def stop(self) -> None:
        """Kill the process. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._pipe is not None
            self._pipe.close()
            self._process = self._pipe = None

    def _receive(self, timeout_s: float) -> tuple:
        assert self._pipe is not None and self._process is not None
        if not wait([self._pipe], timeout_s):
            self.stop()
            raise WorkerTimedOut(f"no answer within {timeout_s:.0f} s")
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as gone:
            raise self._died() from gone

    def _died(self) -> WorkerDied:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code = self._process.poll()
        self.stop()
        return WorkerDied(f"the worker died by signal {-code}" if code and code < 0 else f"the worker ended ({code})")


def ask_all(workers: Sequence[Worker], requests: Sequence[tuple], timeout_s: float) -> list[tuple | Exception]:
    """One request per worker, answered side by side; a worker that died or hung gives its exception."""
    sent: list[Exception | None] = []
    for worker, request in zip(workers, requests, strict=False):
        try:
            worker.send(*request)
            sent.append(None)
        except (WorkerDied, WorkerTimedOut) as problem:
            sent.append(problem)
    answers: list[tuple | Exception] = []
    for worker, refused in zip(workers, sent, strict=False):
        if refused is not None:
            answers.append(refused)
            continue
        try:
            answers.append(worker.answer(timeout_s))
        except (WorkerDied, WorkerTimedOut) as late:
            answers.append(late)
    return answers
