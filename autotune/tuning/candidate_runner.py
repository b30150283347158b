"""One problem before its workers: opened where it is measured, compiled elsewhere, and every answer made a Trial."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from autotune.runner.worker_pool import NEXT, NOW, Answer, WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from tuning_db.records import Measurement, Outcome, Trial

OPEN_TIMEOUT_S = 120.0
DRAW_S = 60.0
SHARES = 5  # workers that compile a layer nobody knows: it has as many kernels
WARMING = "warming"  # owner of what is compiled only to be in the cache
LARGEST_INTEGER = (1 << 63) - 1  # of SQLite


class TuneError(Exception):
    """A problem could not be tuned; the message is one line that says which and why."""


def draw_ahead(problems: Iterable[Problem], where: TuneTarget, crew: WorkerPool, seed: int) -> None:
    """Have workers write the problems' inputs and references' answers to files, in this order, for
    `CandidateRunner.open` to read: they take seconds, in which the measurer would measure nothing."""
    for problem in problems if where.apart else ():
        path = _drawn(problem, crew)
        crew.submit(path, path, ("draw", where.builds, problem.key, seed, str(path)), DRAW_S, NOW - 1, slow=True)


def _drawn(problem: Problem, crew: WorkerPool) -> Path:
    return crew.folder / sha256(problem.key.encode()).hexdigest()


def warm(problem: Problem, configs: Sequence[Config], where: TuneTarget, crew: WorkerPool) -> None:
    """Have configurations compiled when there is nothing better to do, the first one and what differs from it; the
    cache keeps what comes of it."""
    for number, config in enumerate(configs):
        for share in [(0, 1)] if number else _shares():
            request = ("compile", where.builds, problem.key, dict(config), dict(configs[0]) if number else None, share)
            crew.submit(WARMING, config, request, where.compile_s, NEXT + 1)


def _shares() -> list[tuple[int, int]]:
    return [(i, SHARES) for i in range(SHARES)]


def reference(problem: Problem, seed: int) -> str:
    """What a candidate was verified against, for a Winner."""
    return f"kernel_templates.{problem.op}.reference in float64, inputs of seed {seed}"


def clock_mhz(measurement: Measurement) -> float | None:
    """The chip's mean clock before and after a measurement, for a Winner; None where the device does not say."""
    state = measurement.state or {}
    pair = state.get("sm_mhz") or state.get("mhz")
    return None if pair is None else sum(pair) / len(pair)


def space_size(size: int) -> int:
    """For a Run: 0 when it is more than the database can hold."""
    return size if size <= LARGEST_INTEGER else 0


class CandidateRunner:
    """The requests about one problem. `tolerance`: known once it is open."""

    def __init__(self, problem: Problem, where: TuneTarget, crew: WorkerPool, seed: int):
        self.problem, self.where, self.crew, self.seed = problem, where, crew, seed
        self.tolerance = float("nan")

    def open(self) -> None:
        """Have the measurer know the problem; at once when it does. A worker that is lost meanwhile was lost to what
        went before, so another one tries once more. Raises TuneError, WorkerDied, WorkerTimedOut."""
        try:
            self._open()
        except (WorkerDied, WorkerTimedOut):
            self._open()

    def _open(self) -> None:
        drawn = None
        if self.where.apart:
            drawn = str(_drawn(self.problem, self.crew))
        reply = self.crew.ask(
            "open", self.where.name, self.problem.key, self.seed, self.where.device.units, drawn,
            timeout_s=OPEN_TIMEOUT_S,
        )  # fmt: skip
        if reply[0] != "opened":
            raise TuneError(f"{self.problem.key}: {reply[1]}")
        self.tolerance = reply[1]

    def await_drawing(self) -> None:
        """If a worker is drawing this problem's inputs, wait for that, which is sooner than drawing them again."""
        if self.where.apart:
            self.crew.finished(_drawn(self.problem, self.crew), DRAW_S)

    @property
    def drawn(self) -> bool:
        """Whether nobody is drawing this problem's inputs any more."""
        path = _drawn(self.problem, self.crew)
        return not self.where.apart or not self.crew.busy(path)

    def ask(self, *request) -> tuple:
        """A request to the measurer about this problem, opened again in case the worker is a new one.

        A worker that dies may have been killed from outside, or wounded by what it ran before: then a new one is asked
        once more, and what that dies of is this request's own doing. Raises TuneError, WorkerDied, WorkerTimedOut."""
        self.open()
        fresh = self.crew.measurer.answered <= 1
        try:
            reply = self.crew.ask(*request, timeout_s=self.where.measure_s)
        except WorkerDied as death:
            if fresh and not death.killed:
                raise
            self.open()
            reply = self.crew.ask(*request, timeout_s=self.where.measure_s)
        if reply[0] == "poisoned":
            self.crew.measurer.stop()  # it ends by itself; the next request must not go to it
            self.crew.measurer.start()
        return reply

    def compile(self, config: Config, tag: Any = None, rank: int = NOW, base: Config | None = None) -> None:
        """Start compiling; the answer comes from `compiled` with the tag, the configuration if there is none. base: one
        that was asked for before, whose kernels need not be compiled again."""
        self._submit(config, config if tag is None else tag, rank, base if base != config else None, (0, 1))

    def compile_shared(self, configs: Sequence[Config]) -> Callable[[Config], Answer]:
        """Compile several configurations of many kernels side by side. Returns what waits for one of them."""
        answers: dict[tuple[Config, tuple[int, int]], Answer] = {}
        shares = _shares()
        for config in configs:
            for share in shares:
                self._submit(config, (config, share), NOW, configs[0] if config != configs[0] else None, share)

        def answer(config: Config) -> Answer:
            while any((config, share) not in answers for share in shares):
                answers.update(self.compiled(1.0))
            mine = [answers[config, share] for share in shares]
            bad = [a for a in mine if isinstance(a, Exception) or a[0] != "compiled"]
            return bad[0] if bad else ("compiled", sum(a[1] for a in mine if not isinstance(a, Exception)))

        return answer

    def _submit(self, config: Config, tag: Any, rank: int, base: Config | None, share: tuple[int, int]) -> None:
        about = (dict(config), None if base is None else dict(base), share)
        request = ("compile", self.where.builds, self.problem.key, *about)
        self.crew.submit(self.problem, tag, request, self.where.compile_s, rank)

    def compiled(self, wait_s: float) -> list[tuple[Any, Answer]]:
        """(tag, answer) of what is done; waits for the first one."""
        return self.crew.finished(self.problem, wait_s)

    @property
    def compiling(self) -> int:
        """How many are asked for whose answers were not fetched."""
        return self.crew.outstanding(self.problem)

    @property
    def unmeasured(self) -> int:
        """How many are compiled and wait to be measured."""
        return self.crew.outstanding(self.problem) - self.crew.busy(self.problem)

    def close(self) -> None:
        """Nobody waits for this problem's compilers any more."""
        self.crew.withdraw(self.problem)

    def forget(self) -> None:
        """Nobody opens this problem any more: its inputs may go."""
        if self.where.apart:
            self.crew.withdraw(_drawn(self.problem, self.crew))
            _drawn(self.problem, self.crew).unlink(missing_ok=True)

    def trial(self, config: Config, compiled: Answer, measure: Callable[[], tuple]) -> Trial:
        """What became of a configuration: of compiling it, and if that went well, of `measure`.

        `measure` gives ("ok", Measurement, error) or a reply that says why not.
        """
        if isinstance(compiled, WorkerTimedOut):
            return Trial(dict(config), Outcome.TIMED_OUT, message=f"compiling: {compiled}")
        if isinstance(compiled, Exception):
            return Trial(dict(config), Outcome.CRASHED, message=f"compiling: {compiled}")
        if compiled[0] != "compiled":
            return Trial(dict(config), Outcome.FAILED_TO_COMPILE, message=compiled[1])
        spent = compiled[1]
        try:
            reply = measure()
        except WorkerTimedOut as late:
            return Trial(dict(config), Outcome.TIMED_OUT, compile_s=spent, message=str(late))
        except WorkerDied as death:
            return Trial(dict(config), Outcome.CRASHED, compile_s=spent, message=str(death))
        if reply[0] == "ok":
            return Trial(dict(config), Outcome.OK, reply[1], spent, reply[2], self.tolerance)
        if reply[0] == "wrong":
            return Trial(dict(config), Outcome.WRONG, None, spent, reply[2], self.tolerance, reply[1])
        if reply[0] == "impossible":
            return Trial(dict(config), Outcome.IMPOSSIBLE, compile_s=spent, message=reply[1])
        if reply[0] == "failed_to_compile":
            return Trial(dict(config), Outcome.FAILED_TO_COMPILE, compile_s=spent, message=reply[1])
        return Trial(dict(config), Outcome.CRASHED, compile_s=spent, message=reply[1])

    def rematch(self, configs: Sequence[Config], rounds: int) -> tuple[list[Measurement], list[float], float]:
        """Measurements and errors of verified configurations timed in turn, and bytes a second read meanwhile.

        Raises TuneError, WorkerDied and WorkerTimedOut.
        """
        reply = self.ask("rematch", [dict(c) for c in configs], rounds, *self.where.energy)
        if reply[0] != "rematch":
            raise TuneError(f"{self.problem.key}: the rematch failed: {reply[1]}")
        return reply[1], reply[2], reply[3]
