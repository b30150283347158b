"""Sends one problem's requests to the worker pool; turns replies into Trials."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from autotune.runner import protocol
from autotune.runner.worker_pool import NEXT, NOW, Answer, WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Chain, Problem
from kernel_templates.space import Config
from tuning_db.records import Outcome, Trial

OPEN_TIMEOUT_S = 120.0
GENERATE_S = 60.0
SHARES = 5  # workers that compile a layer of which nothing is cached: it has as many kernels
WARMING = "warming"  # owner of what is compiled only to be in the cache


class TuneError(Exception):
    """A problem could not be tuned; the message is one line that says which and why."""


def generate_inputs_ahead(problems: Iterable[Problem], target: TuneTarget, worker_pool: WorkerPool, seed: int) -> None:
    """Have workers write the problems' inputs and references' outputs to files, in this order, for
    `CandidateRunner.open` to read: they take seconds, in which the measurer would measure nothing."""
    for problem in problems if target.separate_measurer else ():
        path = _inputs_path(problem, worker_pool)
        request = protocol.GenerateInputs(target.compile_target, problem.key, seed, str(path))
        worker_pool.submit(path, path, request, GENERATE_S, NOW - 1, slow=True)


def _inputs_path(problem: Problem, worker_pool: WorkerPool) -> Path:
    return worker_pool.folder / sha256(problem.key.encode()).hexdigest()


def warm(
    problem: Problem, configs: Sequence[Config], target: TuneTarget, worker_pool: WorkerPool, later: bool = False
) -> None:  # fmt: skip
    """Have configurations compiled when there is nothing better to do, the first one and what differs from it; the
    cache keeps what comes of it. later: after what is warmed without it."""
    rank = NEXT + 2 if later else NEXT + 1
    for number, config in enumerate(configs):
        for share in [(0, 1)] if number or not isinstance(problem, Chain) else _shares():
            request = protocol.Compile(
                target.compile_target, problem.key, config, configs[0] if number else None, share
            )
            worker_pool.submit((WARMING, later), config, request, target.compile_s, rank)


def stop_warming(worker_pool: WorkerPool, later: bool = False) -> None:
    """What was not begun is not compiled any more."""
    worker_pool.withdraw((WARMING, later))


def _shares() -> list[tuple[int, int]]:
    return [(i, SHARES) for i in range(SHARES)]


class CandidateRunner:
    """The requests about one problem. `tolerance`: known once it is open."""

    def __init__(self, problem: Problem, target: TuneTarget, worker_pool: WorkerPool, seed: int):
        self.problem, self.target, self.worker_pool, self.seed = problem, target, worker_pool, seed
        self.tolerance = float("nan")

    def open(self) -> None:
        """Have the measurer open the problem; at once when it has. A worker that is lost meanwhile was lost to what
        went before, so another one tries once more. Raises TuneError, WorkerDied, WorkerTimedOut."""
        try:
            self._open()
        except (WorkerDied, WorkerTimedOut):
            self._open()

    def _open(self) -> None:
        inputs = str(self._inputs) if self.target.separate_measurer else None
        request = protocol.Open(self.target.name, self.problem.key, self.seed, self.target.device.units, inputs)
        reply = self.worker_pool.ask(request, OPEN_TIMEOUT_S)
        if not isinstance(reply, protocol.Opened):
            raise TuneError(f"{self.problem.key}: {_why(reply)}")
        self.tolerance = reply.tolerance

    @property
    def _inputs(self) -> Path:
        return _inputs_path(self.problem, self.worker_pool)

    def await_inputs(self) -> None:
        """If a worker is generating this problem's inputs, wait for that: it is sooner than doing it again."""
        if self.target.separate_measurer:
            self.worker_pool.finished(self._inputs, GENERATE_S)

    @property
    def inputs_are_ready(self) -> bool:
        """Whether no worker is generating this problem's inputs any more."""
        return not self.target.separate_measurer or not self.worker_pool.busy(self._inputs)

    def ask(self, request: protocol.Request) -> protocol.Reply:
        """A request to the measurer about this problem, opened again in case the worker is a new one.

        A worker that dies may have been killed from outside, or wounded by what it ran before: then a new one is asked
        once more, and what that dies of is this request's own doing. Raises TuneError, WorkerDied, WorkerTimedOut."""
        self.open()
        fresh = self.worker_pool.measurer.answered <= 1
        try:
            reply = self.worker_pool.ask(request, self.target.measure_s)
        except WorkerDied as death:
            if fresh and not death.killed:
                raise
            self.open()
            reply = self.worker_pool.ask(request, self.target.measure_s)
        if isinstance(reply, protocol.Poisoned):
            self.worker_pool.measurer.stop()  # it ends by itself; the next request must not go to it
            self.worker_pool.measurer.start()
        return reply

    def measure(self, config: Config, samples: int) -> protocol.Reply:
        """`Measured`, or why not. Raises what `ask` raises."""
        return self.ask(protocol.Measure(config, samples, self.target.measures_energy))

    def compare_pair(self, config: Config, incumbent: Config, rounds: int, verify: bool) -> protocol.Reply:
        """`PairCompared`, or why not. Raises what `ask` raises."""
        return self.ask(protocol.ComparePair(config, incumbent, rounds, verify, self.target.measures_energy))

    def compare_finalists(self, configs: Sequence[Config], rounds: int) -> protocol.FinalistsCompared:
        """Verified configurations timed in turn. Raises TuneError, WorkerDied and WorkerTimedOut."""
        reply = self.ask(protocol.CompareFinalists(tuple(configs), rounds, self.target.measures_energy))
        if not isinstance(reply, protocol.FinalistsCompared):
            raise TuneError(f"{self.problem.key}: the final comparison failed: {_why(reply)}")
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
            bad = [a for a in mine if not isinstance(a, protocol.Compiled)]
            seconds = sum(a.seconds for a in mine if isinstance(a, protocol.Compiled))
            return bad[0] if bad else protocol.Compiled(seconds)

        return answer

    def _submit(self, config: Config, tag: Any, rank: int, base: Config | None, share: tuple[int, int]) -> None:
        request = protocol.Compile(self.target.compile_target, self.problem.key, config, base, share)
        self.worker_pool.submit(self.problem, tag, request, self.target.compile_s, rank)

    def compiled(self, wait_s: float) -> list[tuple[Any, Answer]]:
        """(tag, answer) of what is done; waits for the first one."""
        return self.worker_pool.finished(self.problem, wait_s)

    @property
    def compiling(self) -> int:
        """How many are asked for whose answers were not fetched."""
        return self.worker_pool.outstanding(self.problem)

    @property
    def is_compiling(self) -> bool:
        """Whether any is not compiled yet."""
        return self.worker_pool.busy(self.problem) > 0

    @property
    def unmeasured(self) -> int:
        """How many are compiled and wait to be measured."""
        return self.worker_pool.outstanding(self.problem) - self.worker_pool.busy(self.problem)

    def close(self) -> None:
        """What still compiles for this problem is not waited for any more."""
        self.worker_pool.withdraw(self.problem)

    def forget(self) -> None:
        """This problem is not opened any more: its inputs may go."""
        if self.target.separate_measurer:
            self.worker_pool.withdraw(self._inputs)
            self._inputs.unlink(missing_ok=True)

    def trial(self, config: Config, compiled: Answer, measure: Callable[[], protocol.Reply]) -> Trial:
        """What became of a configuration: of compiling it, and if that went well, of `measure`."""
        if isinstance(compiled, WorkerTimedOut):
            return Trial(dict(config), Outcome.TIMED_OUT, message=f"compiling: {compiled}")
        if isinstance(compiled, WorkerDied):
            return Trial(dict(config), Outcome.CRASHED, message=f"compiling: {compiled}")
        if not isinstance(compiled, protocol.Compiled | protocol.Inspected):
            return Trial(dict(config), Outcome.FAILED_TO_COMPILE, message=_why(compiled))
        return self.measured_trial(config, measure, compiled.seconds)

    def measured_trial(
        self, config: Config, measure: Callable[[], protocol.Reply], compile_s: float | None = None
    ) -> Trial:
        """What became of measuring a configuration that is compiled."""
        try:
            reply = measure()
        except WorkerTimedOut as late:
            return Trial(dict(config), Outcome.TIMED_OUT, compile_s=compile_s, message=str(late))
        except WorkerDied as death:
            return Trial(dict(config), Outcome.CRASHED, compile_s=compile_s, message=str(death))
        match reply:
            case protocol.Measured(measurement, error):
                return Trial(dict(config), Outcome.OK, measurement, compile_s, error, self.tolerance)
            case protocol.Wrong(message, error):
                return Trial(dict(config), Outcome.WRONG, None, compile_s, error, self.tolerance, message)
            case protocol.Impossible(message):
                return Trial(dict(config), Outcome.IMPOSSIBLE, compile_s=compile_s, message=message)
            case protocol.FailedToCompile(message):
                return Trial(dict(config), Outcome.FAILED_TO_COMPILE, compile_s=compile_s, message=message)
        return Trial(dict(config), Outcome.CRASHED, compile_s=compile_s, message=_why(reply))


def _why(reply: protocol.Reply) -> str:
    """Why a reply is not the one that was hoped for."""
    return reply.message if isinstance(reply, protocol.Failure) else f"unexpected {type(reply).__name__}"
