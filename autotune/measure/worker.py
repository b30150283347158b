"""The process in which candidates live. Run as `python -m autotune.measure.worker FD`; talks over one pipe.

Requests and replies are tuples; the first element names the request. The parent may kill this process at any time, and
it ends by itself when the parent does. Ctrl-C is the parent's business.
"""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from autotune.measure import candidate
from autotune.measure.bandwidth import ReadProbe
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.team import Team
from kernel_templates.space import Config


class _Serving:
    """The worker's state between requests: the current problem and the candidates that were asked to stay."""

    def __init__(self) -> None:
        self._bench: candidate.Bench | None = None
        self._key = ("", 0)

    @property
    def bench(self) -> candidate.Bench:
        if self._bench is None:
            raise RuntimeError("no problem is open")
        return self._bench

    def compile(self, problem: str, config: dict) -> tuple:
        """Compile into the cache on disk; ("compiled", seconds)."""
        target = registry.parse_problem(problem)
        start = time.perf_counter()
        registry.get(target.op).cpu.compile(target, Config(config), machine.features())
        return ("compiled", time.perf_counter() - start)

    def open(self, problem: str, seed: int, threads: int) -> tuple:
        """Draw inputs and compute the reference's answer, unless that is done; ("opened", tolerance)."""
        if self._bench is None or self._key != (problem, seed):
            team = self._bench.team if self._bench else Team(threads)
            self._bench, self._key = candidate.Bench(registry.parse_problem(problem), team, seed), (problem, seed)
        return ("opened", self.bench.tolerance)

    def measure(self, config: dict, samples: int) -> tuple:
        """("ok", Measurement, error) or ("wrong", message, error)."""
        try:
            ready = self.bench.prepare(Config(config), candidate.working_set())
        except candidate.WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        return ("ok", candidate.measure(ready, samples), ready.error)

    def rematch(self, configs: list[dict], rounds: int) -> tuple:
        """("rematch", measurements, errors, bytes a second that the machine read meanwhile)."""
        size = candidate.working_set()
        ready = [self.bench.prepare(Config(c), size) for c in configs]
        measurements, rate = candidate.rematch(ready, rounds, ReadProbe(self.bench.team, size))
        return ("rematch", measurements, [r.error for r in ready], rate)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    serving = _Serving()
    pipe.send(("started", os.getpid()))
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            reply = getattr(serving, name)(*arguments)
        except Exception as problem:
            text = str(problem).strip().splitlines() or [""]
            reply = ("failed", f"{type(problem).__name__}: {text[0]}"[:400])
        pipe.send(reply)


if __name__ == "__main__":
    main()
