"""What a worker does for the processor: compile, open a problem, time one candidate or several in turn."""

import time
from collections.abc import Sequence

from autotune.runner import cpu_candidate, protocol, timing
from autotune.runner.bandwidth import ReadProbe
from autotune.runner.device_state import CpuWatch
from autotune.runner.measurement_guard import ImpossibleTime, MeasurementGuard
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.space import Config
from kernel_templates.verify import WrongResult
from tuning_db.records import Measurement


class CpuBackend(protocol.Backend):
    """The current problem, and the thread pool that its candidates run on."""

    def __init__(self) -> None:
        self._problem: cpu_candidate.OpenProblem | None = None
        self._key = ("", 0)
        self._guard = MeasurementGuard(CpuWatch(), self._probe)

    @property
    def problem(self) -> cpu_candidate.OpenProblem:
        """Raises RuntimeError when none is open."""
        if self._problem is None:
            raise RuntimeError("no problem is open")
        return self._problem

    def answer(self, request: protocol.Request) -> protocol.Reply:
        if isinstance(request, protocol.Measure | protocol.CompareFinalists) and request.energy:
            raise NotImplementedError("the energy of a processor's calls cannot be counted")
        return super().answer(request)

    def compile(self, request: protocol.Compile) -> protocol.Compiled:
        """Into the cache on disk."""
        problem = registry.parse_problem(request.problem)
        start = time.perf_counter()
        registry.cpu(problem.op).compile(problem, request.config, machine.features())
        return protocol.Compiled(time.perf_counter() - start)

    def open(self, request: protocol.Open) -> protocol.Opened:
        """Generate inputs and compute the reference's outputs, unless that is done."""
        key = (request.problem, request.seed)
        if self._problem is None or self._key != key:
            pool = self._problem.pool if self._problem else ThreadPool(request.units)
            problem = registry.parse_problem(request.problem)
            self._problem, self._key = cpu_candidate.OpenProblem(problem, pool, request.seed), key
        return protocol.Opened(self.problem.tolerance)

    def measure(self, request: protocol.Measure) -> protocol.Measured | protocol.Wrong | protocol.Impossible:
        try:
            candidate = self.problem.prepare(request.config, cpu_candidate.working_set())
        except WrongResult as wrong:
            return protocol.Wrong(str(wrong), wrong.error)
        try:
            (found,) = self._guard.take([candidate], lambda: [timing.measure(candidate, request.samples)])
        except ImpossibleTime as impossible:
            return protocol.Impossible(str(impossible))
        return protocol.Measured(found, candidate.error)

    def compare_finalists(self, request: protocol.CompareFinalists) -> protocol.FinalistsCompared:
        candidates = self.finalists(request.configs)
        taken: list[timing.Finals] = []

        def take() -> list[Measurement]:
            taken.append(timing.compare_finalists(candidates, request.rounds, self._guard.probe()))
            return taken[-1].measurements

        measurements = self._guard.take(candidates, take)
        last, errors = taken[-1], tuple(c.error for c in candidates)
        return protocol.FinalistsCompared(tuple(measurements), errors, last.read_bytes_s, last.samples, last.again)

    def finalists(self, configs: Sequence[Config]) -> list[cpu_candidate.PreparedCandidate]:
        """What a final comparison times in turn; raises what `OpenProblem.prepare` raises."""
        size = cpu_candidate.working_set()
        return [self.problem.prepare(config, size) for config in configs]

    def _probe(self) -> ReadProbe:
        return ReadProbe(self.problem.pool, cpu_candidate.working_set())
