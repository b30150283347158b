"""The worker processes of one tuning run: one measures, all others compile ahead of it, from one queue.

On a processor compiling would disturb the clock, so there the worker that measures compiles too, and nothing is
measured until all have finished. On a GPU compiling goes on while candidates are measured, for problems to come as
well: a job belongs to an `owner`, its answer waits until the owner asks, and a job whose owner has gone on has none.
"""

import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from autotune.runner import fork_server, worker_process
from autotune.runner.protocol import Reply, Request
from autotune.runner.shared_folder import RunFolder
from autotune.runner.timeline import Timeline
from autotune.runner.worker_process import ONE_THREAD, PROGRAM, START_S, Worker, WorkerDied, WorkerTimedOut

FIRST_S = 30.0  # that a worker's first job may take longer: it imports the templates
NOW, NEXT = 0, 1  # ranks of jobs: for the problem at hand, and for those that follow
Answer = Reply | WorkerDied | WorkerTimedOut


@dataclass(frozen=True)
class _Job:
    owner: Hashable
    tag: Any
    request: Request
    limit_s: float
    rank: int
    slow: bool
    again: bool = False  # a first worker died of this, or of what it did before
    begun: float = 0.0
    until: float = 0.0


class WorkerPool:
    """A context manager. `submit` and `finished` are for compiling, `ask` is for the worker that measures.

    folder: where workers leave files for each other; it goes when the pool ends.
    """

    def __init__(
        self, compilers: int, separate_measurer: bool, program: Sequence[str] = PROGRAM,
        timeline: Timeline | None = None, target: str = "", measurer: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """separate_measurer: the worker that measures does not compile, and is one more process. timeline: where every
        job leaves a span. target: whose backend the measurer makes before it is asked, "cuda:0" for instance. measurer:
        the program of a separate measurer, if not that of the others."""
        self.timeline = timeline or Timeline()
        self._fork_server = fork_server.begun() if separate_measurer and tuple(program) == PROGRAM else None
        begun = None if self._fork_server is None or measurer else worker_process.begun_measurer(target)
        self.measurer = begun or Worker(measurer or program, target=target)
        self.measurer.fork_server = None if measurer else self._fork_server  # of its successors, where it was begun
        variables = ONE_THREAD if separate_measurer else {}
        count = compilers if separate_measurer else compilers - 1
        self.compilers = [Worker(program, variables, fork_server=self._fork_server) for _ in range(count)]
        if not separate_measurer:
            self.compilers.insert(0, self.measurer)
        self.separate_measurer = separate_measurer
        self._queue: list[_Job] = []
        self._jobs: dict[int, _Job] = {}  # by worker
        self._answered = 0
        self._boxes: dict[Hashable, deque[tuple[Any, Answer]]] = {}
        self._used: set[int] = set()  # workers that have answered once
        self._folder: RunFolder | None = None

    def __enter__(self) -> Self:
        self._folder = RunFolder()
        if self._fork_server is not None:
            self._fork_server.__enter__()
        for worker in (self.measurer, *self.compilers):
            worker.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._queue.clear()
        self._jobs.clear()
        for worker in (self.measurer, *self.compilers):
            worker.kill()
        for worker in (self.measurer, *self.compilers):
            worker.stop()
        if self._fork_server is not None:
            self._fork_server.__exit__(*exception)
        if self._folder is not None:
            self._folder.close()

    @property
    def folder(self) -> Path:
        assert self._folder is not None
        return self._folder.path

    def busy(self, owner: Hashable) -> int:
        """How many jobs of `owner` are queued or being done."""
        return sum(job.owner == owner for job in (*self._queue, *self._jobs.values()))

    def outstanding(self, owner: Hashable) -> int:
        """Those, and answers that wait for the owner."""
        return self.busy(owner) + len(self._boxes.get(owner, ()))

    def free_slots(self, ahead: int = 0, rank: int = NOW) -> int:
        """How many more jobs of a rank are worth submitting: one for each worker that is free and `ahead` more."""
        free = sum(self._is_ready(i) for i in range(len(self.compilers)) if i not in self._jobs)
        return max(0, free + ahead - sum(job.rank <= rank and not job.slow for job in self._queue))

    def submit(
        self, owner: Hashable, tag: Any, request: Request, timeout_s: float, rank: int = NOW, slow: bool = False
    ) -> None:
        """Queue a request; `tag` comes back with its answer. Jobs of a lower rank come first. slow: only every fourth
        worker does such jobs at a time. What is being done already, without a reader, is not begun again."""
        for index, job in self._jobs.items():
            if job.owner is None and job.request == request:
                self._jobs[index] = replace(job, owner=owner, tag=tag)
                return
        self._queue.append(_Job(owner, tag, request, timeout_s, rank, slow))
        self._hand_out()

    def finished(self, owner: Hashable, wait_s: float) -> list[tuple[Any, Answer]]:
        """(tag, reply) of the owner's jobs that are done, an exception for a worker that died or hung; waits for the
        first one, no longer than `wait_s`."""
        until = time.monotonic() + wait_s
        self._turn(0.0)
        while not self._boxes.get(owner) and self.busy(owner) and time.monotonic() < until:
            self._turn(until - time.monotonic())
        box = self._boxes.pop(owner, deque())
        return list(box)

    def wait(self, wait_s: float) -> None:
        """Until the next answer comes, of any owner, no longer than `wait_s`."""
        until, before = time.monotonic() + wait_s, self._answered
        self._turn(0.0)
        while self._answered == before and (self._queue or self._jobs) and time.monotonic() < until:
            self._turn(until - time.monotonic())

    def withdraw(self, owner: Hashable) -> None:
        """Forget the owner's jobs: what is queued is not done any more, and what is being done has no reader."""
        self._queue = [job for job in self._queue if job.owner != owner]
        for index, job in self._jobs.items():
            if job.owner == owner:
                self._jobs[index] = replace(job, owner=None)
        self._boxes.pop(owner, None)

    def ask(self, request: Request, timeout_s: float) -> Reply:
        """A request to the measurer and its reply; what is queued is handed out meanwhile. Raises WorkerDied and
        WorkerTimedOut."""
        begun = time.monotonic()
        try:
            return self._ask(request, timeout_s)
        finally:
            self.timeline.add("measurer", _name(request), begun, time.monotonic(), request=repr(request)[:400])

    def _ask(self, request: Request, timeout_s: float) -> Reply:
        if not self.separate_measurer:
            return self.measurer.ask(request, timeout_s)
        self.measurer.start()
        until = time.monotonic() + START_S
        while not self.measurer.started() and time.monotonic() < until:
            self._turn(until - time.monotonic(), self.measurer)
        self.measurer.send(request)
        until = time.monotonic() + timeout_s
        assert self.measurer.pipe is not None
        while not self.measurer.pipe.poll() and time.monotonic() < until:
            self._turn(until - time.monotonic(), self.measurer)
        try:
            return self.measurer.reply(0.0)
        except WorkerTimedOut:
            raise WorkerTimedOut(f"no answer within {timeout_s:.0f} s") from None

    def _turn(self, wait_s: float, other: Worker | None = None) -> None:
        """Hand out, wait for news of any worker or `other`, and put away the answers."""
        self._hand_out()
        watched = [self.compilers[i] for i in range(len(self.compilers)) if i in self._jobs or self._is_starting(i)]
        pipes = [w.pipe.fileno() for w in (*watched, *([other] if other else [])) if w.pipe is not None]
        soonest = min((job.until for job in self._jobs.values()), default=time.monotonic() + 1.0) - time.monotonic()
        if wait_s > 0.0 and pipes:
            wait(pipes, max(0.0, min(wait_s, soonest)))
        self._collect()
        self._hand_out()

    def _hand_out(self) -> None:
        for index, worker in enumerate(self.compilers):
            if not self._queue:
                return
            if index in self._jobs:
                continue
            try:
                worker.start()
                if worker.started():
                    self._give(index)
            except WorkerDied as gone:  # before it could begin: twice, and that is the next job's fate, or no end were
                self._used.discard(index)
                job = self._next()
                if job is not None and not job.again:
                    self._queue.insert(0, replace(job, again=True))
                elif job is not None:
                    self._answer(job, gone)

    def _give(self, index: int) -> None:
        job = self._next()
        if job is None:
            return
        try:
            self.compilers[index].send(job.request)
        except (WorkerDied, WorkerTimedOut):  # it had ended before it could begin: another one will do the job
            self._used.discard(index)
            self._queue.insert(0, job)
            return
        limit = job.limit_s if index in self._used else job.limit_s + FIRST_S
        self._jobs[index] = replace(job, begun=time.monotonic(), until=time.monotonic() + limit)

    def _next(self) -> _Job | None:
        """The first job of the lowest rank."""
        full = sum(job.slow for job in self._jobs.values()) >= max(1, len(self.compilers) // 4)
        able = [job for job in self._queue if not (job.slow and full)]
        job = min(able, key=lambda job: job.rank, default=None)
        if job is not None:
            self._queue = [other for other in self._queue if other is not job]
        return job

    def _collect(self) -> None:
        for index, job in list(self._jobs.items()):
            worker, late = self.compilers[index], time.monotonic() >= job.until
            if not (late or (worker.pipe is not None and worker.pipe.poll())):
                continue
            del self._jobs[index]
            answer: Answer
            try:
                answer = worker.reply(0.0)
                self._used.add(index)
            except (WorkerTimedOut, WorkerDied) as gone:
                hung = WorkerTimedOut(f"no answer within {job.limit_s:.0f} s")
                answer = hung if isinstance(gone, WorkerTimedOut) else gone
                doubtful = isinstance(gone, WorkerDied) and (gone.killed or index in self._used)
                self._used.discard(index)
                worker.start()
                if doubtful and not job.again and job.owner is not None:
                    self._queue.insert(0, replace(job, again=True))
                    continue
            about = {"request": repr(job.request)[:400], "rank": job.rank, "answer": repr(answer)[:200]}
            self.timeline.add(f"worker {index}", _name(job.request), job.begun, time.monotonic(), **about)
            self._answer(job, answer)

    def _answer(self, job: _Job, answer: Answer) -> None:
        self._answered += 1
        if job.owner is not None:
            self._boxes.setdefault(job.owner, deque()).append((job.tag, answer))

    def _is_ready(self, index: int) -> bool:
        """Whether a worker would take a job at once."""
        worker = self.compilers[index]
        try:
            worker.start()
            return worker.started()
        except WorkerDied:
            return False

    def _is_starting(self, index: int) -> bool:
        return bool(self._queue) and index not in self._jobs and not self._is_ready(index)


def _name(request: Request) -> str:
    """Of a span on the timeline."""
    return type(request).__name__
