"""What a worker does on a GPU: open a problem, time one candidate, one in turn with the incumbent, or several."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import torch

from autotune.runner import protocol, timing
from autotune.runner.cuda_bandwidth import ReadProbe
from autotune.runner.cuda_candidate import OpenProblem, PreparedCandidate
from autotune.runner.device_state import GpuWatch, joules_a_call
from autotune.runner.measurement_guard import ImpossibleTime, MeasurementGuard
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config
from kernel_templates.verify import WrongResult
from tuning_db.records import Measurement

_T = TypeVar("_T")
_OPEN = 16  # problems that stay open, with their weights on the GPU as long as it has room
SMALL = Matvec(64, 64, "Q8_0")
_KEPT = 2  # captured candidates that stay for the next paired comparison: the incumbent and its last challenger


class CudaBackend(protocol.Backend):
    """The open problems of GPU `index`, which of them is active, and its candidates that may be wanted again."""

    def __init__(self, index: int):
        torch.cuda.set_device(index)
        torch.empty(1, device="cuda")  # CUDA starts here, not in the first problem's time
        self._index, self._name = index, f"cuda:{index}"
        self._target, self._l2 = machine.target(machine.detect(index)), machine.l2_bytes(index)
        self._problems: OrderedDict[tuple[str, int], OpenProblem] = OrderedDict()  # the last one is active
        self._prepared: OrderedDict[Config, PreparedCandidate] = OrderedDict()
        self._guard = MeasurementGuard(GpuWatch(machine.uuid(index)), lambda: ReadProbe(index))
        with suppress(Exception):  # while the first candidates are compiled; else the first measurement waits for it
            self._guard.probe()
            OpenProblem(SMALL, self._name, self._target, self._l2, seed=0).check_buffers()  # torch loads what it takes

    @property
    def problem(self) -> OpenProblem:
        """The active one. Raises RuntimeError when none is open."""
        if not self._problems:
            raise RuntimeError("no problem is open")
        return next(reversed(self._problems.values()))

    def open(self, request: protocol.Open) -> protocol.Opened:
        """Select the active problem; inputs are generated and the reference computed, unless that was done here, or by
        a worker that wrote the file of inputs."""
        key = (request.problem, request.seed)
        if not self._problems or next(reversed(self._problems)) != key:
            self._prepared.clear()
            if key not in self._problems:
                self._problems[key] = self._with_room(lambda: self._opened(request))
                while len(self._problems) > _OPEN:
                    self._problems.popitem(last=False)
            self._problems.move_to_end(key)
        return protocol.Opened(self.problem.tolerance)

    def _opened(self, request: protocol.Open) -> OpenProblem:
        problem = registry.parse_problem(request.problem)
        return OpenProblem(problem, self._name, self._target, self._l2, request.seed, request.inputs)

    def _with_room(self, make: Callable[[], _T]) -> _T:
        """What `make` gives; if memory does not hold it, again without what the other problems have there."""
        try:
            return make()
        except torch.OutOfMemoryError:
            for problem in self._problems.values():
                problem.forget()
            self._prepared.clear()
            torch.cuda.empty_cache()
            return make()

    def measure(self, request: protocol.Measure) -> protocol.Measured | protocol.Wrong | protocol.Impossible:
        try:
            candidate = self._with_room(lambda: self.problem.prepare(request.config))
            (found,) = self._taken([candidate], lambda: [timing.measure(candidate, request.samples)], request.energy)
        except WrongResult as wrong:
            return protocol.Wrong(str(wrong), wrong.error)
        except ImpossibleTime as impossible:
            return protocol.Impossible(str(impossible))
        return protocol.Measured(found, candidate.error)

    def compare_pair(
        self, request: protocol.ComparePair
    ) -> protocol.PairCompared | protocol.Wrong | protocol.Impossible:
        incumbent = self._kept(request.incumbent, verify=False)
        try:
            candidate = self._kept(request.config, request.verify)
        except WrongResult as wrong:
            return protocol.Wrong(str(wrong), wrong.error)

        def take() -> list[Measurement]:
            samples = timing.compare_pair(candidate.sample, incumbent.sample, request.rounds)
            return [timing.summarize(times) for times in samples]

        try:
            mine, theirs = self._taken([candidate, incumbent], take, request.energy)
        except ImpossibleTime as impossible:
            return protocol.Impossible(str(impossible))
        return protocol.PairCompared(mine, theirs, None if math.isnan(candidate.error) else candidate.error)

    def compare_finalists(self, request: protocol.CompareFinalists) -> protocol.FinalistsCompared:
        """Raises WrongResult for what is wrong."""
        self._prepared.clear()
        candidates = self._with_room(lambda: self.finalists(request.configs))
        taken: list[timing.Finals] = []

        def take() -> list[Measurement]:
            taken.append(timing.compare_finalists(candidates, request.rounds, self._guard.probe()))
            return taken[-1].measurements

        measurements = self._taken(candidates, take, request.energy)
        last, errors = taken[-1], tuple(c.error for c in candidates)
        return protocol.FinalistsCompared(tuple(measurements), errors, last.read_bytes_s, last.samples, last.again)

    def finalists(self, configs: Sequence[Config]) -> list[PreparedCandidate]:
        """What a final comparison times in turn; raises what `OpenProblem.prepare` raises."""
        return [self.problem.prepare(config) for config in configs]

    def _taken(
        self, candidates: Sequence[PreparedCandidate], take: Callable[[], list[Measurement]], energy: bool
    ) -> list[Measurement]:
        """Measurements to be trusted. Raises ImpossibleTime, and NoEnergy where energy cannot be counted."""
        measurements = self._guard.take(candidates, take)
        if energy:
            joules = [joules_a_call(self._guard.watch, c.run) for c in candidates]
            measurements = [replace(m, energy_uj=1e6 * j or None) for m, j in zip(measurements, joules, strict=True)]
        return measurements

    def _kept(self, config: Config, verify: bool) -> PreparedCandidate:
        if config not in self._prepared:
            while len(self._prepared) >= _KEPT:
                self._prepared.popitem(last=False)
            self._prepared[config] = self._with_room(lambda: self.problem.prepare(config, verify))
        self._prepared.move_to_end(config)
        return self._prepared[config]
