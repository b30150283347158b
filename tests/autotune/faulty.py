"""Candidates that misbehave in every way, behind the real worker's protocol: a problem, its space, a worker program.

A candidate is a function of Python over NumPy arrays; what it does wrong it really does: to its process, its memory or
the descriptors it finds. Which configuration does what is drawn from $FAULTY_SEED; the fastest one always behaves.
Times are made up from the configuration and exact, so that the winner of a run without faults is known.
"""

import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from autotune.runner.process_group import die_with_parent
from autotune.runner.protocol import (
    Backend,
    CompareFinalists,
    Compile,
    Compiled,
    FailedToCompile,
    FinalistsCompared,
    Measure,
    Measured,
    Open,
    Opened,
    Reply,
    Wrong,
)
from autotune.runner.timing import compare_finalists, measure
from autotune.runner.worker import serve
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Constraint, Parameter, Space
from kernel_templates.verify import WrongResult, verify

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
DEVICE = Device("cpu", "Faulty 1", "none", 1, 1 << 30, (("test", "1"),))
TILES, WIDTHS, DEPTHS = tuple(range(1, 11)), tuple(range(1, 6)), (1, 2, 3, 4)  # 200 configurations
BEST = {"tile": 7, "width": 2, "depth": 3}
TOLERANCE = 0.01
MEASURE_S = 2.0  # after which a candidate counts as hung
LEAK, MOST_BYTES = 40 << 20, 300 << 20

# What became of a candidate that does this, as the database must say; "late" ones are judged by what they answered.
FAULTS = {
    "hang": "timed_out",
    "segfault": "crashed",
    "exit": "crashed",
    "raise": "crashed",
    "leak": "ok",
    "wrong": "wrong",
    "nan": "wrong",
    "bounds": "crashed",
    "garbage": "crashed",
    "half": "timed_out",
    "noise": "ok",
    "late": "ok",
    "abort": "crashed",
    "orphan": "crashed",
    "compiler": "failed_to_compile",
    "compiler_dies": "crashed",
    "compiler_hangs": "timed_out",
}


@dataclass(frozen=True)
class Faulty(Problem, op="faulty", template_version=1):
    size: int


SPACE = Space(
    (
        Parameter("tile", TILES, 1, "one"),
        Parameter("width", WIDTHS, 1, "two"),
        Parameter("depth", DEPTHS, 1, "three"),
    )
)


def cut(configs) -> Space:
    """The space with these configurations only."""
    configs = set(configs)
    return Space(SPACE.parameters, (Constraint("few", "a test has little time", lambda c: Config(c) in configs),))


def time_ns(config) -> float:
    """No two alike, BEST the lowest."""
    away = [abs(config[name] - BEST[name]) for name in BEST]
    return 1000.0 + 100.0 * away[0] + 37.0 * away[1] + 11.3 * away[2] + 0.01 * config["tile"] + 0.001 * config["width"]


def fault_of(config, seed: int, share: float = 0.5) -> str | None:
    """What a configuration does wrong."""
    if dict(config) in (BEST, dict(SPACE.default)):
        return None
    dice = random.Random(f"{seed} {Config(config).key}")
    return dice.choice(list(FAULTS)) if dice.random() < share else None


def operation():
    from kernel_templates.operation import Operation, Work

    def none(*_):
        raise AssertionError("the worker has its own")

    return Operation(Faulty.op, Faulty, none, none, lambda _: Work(1000, 1000), lambda _: TOLERANCE)


def target(compilers: int = 2, identity: str | None = None):
    """Where the faulty candidates run: as on a processor, the worker that measures compiles too."""
    from autotune.tuning.target import TuneTarget
    from kernel_templates.operation import Work

    return TuneTarget(
        "cpu", "cpu", DEVICE, lambda _: SPACE, lambda _: Work(1000, 1000), compilers, separate_measurer=False,
        compile_s=MEASURE_S, measure_s=MEASURE_S, program=PROGRAM, identity=identity or f"faulty {os.getpid()}",
    )  # fmt: skip


class Candidate:
    """PreparedCandidate to be timed, with the exact time of its configuration."""

    def __init__(self, config: Config):
        self.config = config

    def sample(self) -> float:
        return time_ns(self.config)


class Probe:
    nbytes = 1000

    def seconds(self) -> float:
        return 1e-6


class Pipe(Connection):
    """The worker's end, to which a thread may write 50 ms after an answer was sent."""

    after_the_answer: Callable[[], object] | None = None

    def send(self, answer: object) -> None:
        super().send(answer)
        if self.after_the_answer is not None:
            threading.Timer(0.05, self.after_the_answer).start()
            self.after_the_answer = None


class FaultyBackend(Backend):
    """The worker's side: inputs, the reference's answer, and candidates that compute it, or do not."""

    def __init__(self, pipe: Pipe):
        self._pipe, self._seed = pipe, int(os.environ.get("FAULTY_SEED", "-1"))
        self._leaked: list[np.ndarray] = []
        self._input = np.arange(1.0, 257.0)
        self._answers = {"y": 2.0 * self._input}
        self._open = False

    def compile(self, request: Compile) -> Reply:
        fault = self._fault(request.config)
        if fault == "compiler":
            return FailedToCompile("PTXASError: no")
        if fault == "compiler_dies":
            ctypes.string_at(8)
        if fault == "compiler_hangs":
            _hang()
        return Compiled(0.001)

    def open(self, request: Open) -> Reply:
        self._open = True
        return Opened(TOLERANCE)

    def measure(self, request: Measure) -> Reply:
        time.sleep(float(os.environ.get("FAULTY_SLOW", "0")))
        try:
            return Measured(measure(self._prepare(request.config), request.samples), 0.001)
        except WrongResult as wrong:
            return Wrong(str(wrong), wrong.error)

    def compare_finalists(self, request: CompareFinalists) -> Reply:
        candidates = [self._prepare(config) for config in request.configs]
        taken = compare_finalists(candidates, request.rounds, Probe())
        errors = (0.001,) * len(candidates)
        return FinalistsCompared(tuple(taken.measurements), errors, taken.read_bytes_s, taken.samples, taken.again)

    def _prepare(self, config: Config) -> Candidate:
        assert self._open, "a worker that is new must be told of the problem"
        y = np.full_like(self._input, np.nan)
        fault = self._fault(config)
        if fault in ACTS:
            ACTS[fault](self, y)
        if fault != "nan":
            y[:] = self._input * (3.0 if fault == "wrong" else 2.0)
        verify({"y": y}, self._answers, TOLERANCE)
        return Candidate(config)

    def _fault(self, config: Config) -> str | None:
        if log := os.environ.get("FAULTY_LOG"):
            with open(log, "a") as file:
                file.write(json.dumps(dict(config), sort_keys=True) + "\n")
        return None if self._seed < 0 else fault_of(config, self._seed)

    def leak(self, _: np.ndarray) -> None:
        self._leaked.append(np.ones(LEAK, np.uint8))

    def garbage(self, _: np.ndarray) -> None:
        os.write(
            self._pipe.fileno(),
            b"\xff" + os.urandom(random.randrange(4, 4000)) if random.random() < 0.5 else b"hello\n",
        )

    def half(self, _: np.ndarray) -> None:
        """The beginning of an answer, and nothing after it."""
        os.write(self._pipe.fileno(), (500).to_bytes(4, "big") + b"x" * 20)
        _hang()

    def late(self, _: np.ndarray) -> None:
        """A thread that writes when the answer has long been given."""
        self._pipe.after_the_answer = lambda: os.write(self._pipe.fileno(), b"\xff" * 9)

    def orphan(self, _: np.ndarray) -> None:
        """A child that keeps the pipe open and outlives the worker, were it left alone."""
        if os.fork() == 0:
            time.sleep(600)
        os._exit(5)


def _hang() -> None:
    while True:
        signal.pause()


def _raise(*_) -> None:
    raise ValueError("no such kernel\nand a second line")


def _out_of_bounds(_, y: np.ndarray) -> None:
    ctypes.memset(y.ctypes.data, 0xA5, 1 << 36)


def _noise(*_) -> None:
    for descriptor in (1, 2):
        os.write(descriptor, os.urandom(100_000))


ACTS: dict[str, Callable] = {
    "hang": lambda *_: _hang(),
    "segfault": lambda *_: ctypes.string_at(8),
    "exit": lambda *_: os._exit(0),
    "raise": _raise,
    "leak": FaultyBackend.leak,
    "bounds": _out_of_bounds,
    "garbage": FaultyBackend.garbage,
    "half": FaultyBackend.half,
    "noise": _noise,
    "late": FaultyBackend.late,
    "abort": lambda *_: os.kill(os.getpid(), signal.SIGABRT),
    "orphan": FaultyBackend.orphan,
}

if __name__ == "__main__":
    die_with_parent()
    pipe = Pipe(int(sys.argv[1]))
    serve(pipe, lambda target: FaultyBackend(pipe), most_bytes=MOST_BYTES)
