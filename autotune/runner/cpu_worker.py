"""What a worker does for the processor: compile, open a problem, time one candidate or several against each other."""

import time

from autotune.runner import cpu_candidate
from autotune.runner.bandwidth import ReadProbe
from autotune.runner.device_state import CpuWatch
from autotune.runner.measurement_guard import Impossible, MeasurementGuard
from autotune.runner.verify import WrongResult, measure, rematch
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.space import Config
from tuning_db.records import Measurement


class OnCpu:
    """The current problem, and the team of threads its candidates run on."""

    def __init__(self) -> None:
        self._bench: cpu_candidate.Bench | None = None
        self._key = ("", 0)
        self._trust = MeasurementGuard(CpuWatch(), self._probe)

    @property
    def bench(self) -> cpu_candidate.Bench:
        if self._bench is None:
            raise RuntimeError("no problem is open")
        return self._bench

    def compile(self, problem: str, config: dict, base: dict | None = None, share: tuple[int, int] = (0, 1)) -> tuple:
        """Compile into the cache on disk; ("compiled", seconds)."""
        target = registry.parse_problem(problem)
        start = time.perf_counter()
        registry.cpu(target.op).compile(target, Config(config), machine.features())
        return ("compiled", time.perf_counter() - start)

    def open(self, problem: str, seed: int, threads: int, drawn: str | None = None) -> tuple:
        """Draw inputs and compute the reference's answer, unless that is done; ("opened", tolerance)."""
        if self._bench is None or self._key != (problem, seed):
            team = self._bench.team if self._bench else ThreadPool(threads)
            self._bench, self._key = cpu_candidate.Bench(registry.parse_problem(problem), team, seed), (problem, seed)
        return ("opened", self.bench.tolerance)

    def measure(self, config: dict, samples: int) -> tuple:
        """("ok", Measurement, error) or ("wrong", message, error)."""
        try:
            ready = self.bench.prepare(Config(config), cpu_candidate.working_set())
        except WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        try:
            (measurement,) = self._trust.take([ready], lambda: [measure(ready, samples)])
        except Impossible as impossible:
            return ("impossible", str(impossible))
        return ("ok", measurement, ready.error)

    def rematch(self, configs: list[dict], rounds: int) -> tuple:
        """("rematch", measurements, errors, bytes a second that the machine read meanwhile)."""
        size = cpu_candidate.working_set()
        ready = [self.bench.prepare(Config(c), size) for c in configs]
        rates: list[float] = []

        def take() -> list[Measurement]:
            measurements, rate = rematch(ready, rounds, self._trust.probe())
            rates.append(rate)
            return measurements

        measurements = self._trust.take(ready, take)
        return ("rematch", measurements, [r.error for r in ready], rates[-1])

    def _probe(self) -> ReadProbe:
        return ReadProbe(self.bench.team, cpu_candidate.working_set())
