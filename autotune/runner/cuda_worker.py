"""What a worker does on a GPU: open a problem, time one candidate, two in turn, or several."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import torch

from autotune.runner import cuda_candidate
from autotune.runner.cuda_bandwidth import ReadProbe
from autotune.runner.device_state import GpuWatch, joules_a_call
from autotune.runner.measurement_guard import Impossible, MeasurementGuard
from autotune.runner.verify import WrongResult, duel, measure, rematch, summarize
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.space import Config
from tuning_db.records import Measurement

_T = TypeVar("_T")
_OPEN = 16  # problems that stay open, with their weights on the GPU as long as it has room
_KEPT = 2  # captured candidates that stay for the next duel: the best one and its last challenger


class OnCuda:
    """The open problems of GPU `index`, which of them is meant, and its candidates that may be wanted again."""

    def __init__(self, index: int):
        torch.cuda.set_device(index)
        torch.empty(1, device="cuda")  # CUDA starts here, not in the first problem's time
        self._index, self._name = index, f"cuda:{index}"
        self._target, self._l2 = machine.target(machine.detect(index)), machine.l2_bytes(index)
        self._benches: OrderedDict[tuple[str, int], cuda_candidate.Bench] = OrderedDict()  # the last one is meant
        self._ready: OrderedDict[Config, cuda_candidate.PreparedCandidate] = OrderedDict()
        self._trust = MeasurementGuard(GpuWatch(machine.uuid(index)), lambda: ReadProbe(index))
        with suppress(Exception):  # while the first candidates are compiled; else the first measurement waits for it
            self._trust.measure_rate()

    @property
    def bench(self) -> cuda_candidate.Bench:
        if not self._benches:
            raise RuntimeError("no problem is open")
        return next(reversed(self._benches.values()))

    def open(self, problem: str, seed: int, units: int, drawn: str | None = None) -> tuple:
        """Make a problem the one that is meant: draw its inputs and compute the reference's answer, unless that was
        done here, or by whoever wrote the file `drawn`; ("opened", tolerance)."""
        key = (problem, seed)
        if not self._benches or next(reversed(self._benches)) != key:
            self._ready.clear()
            if key not in self._benches:
                self._benches[key] = self._with_room(lambda: self._made(problem, seed, drawn))
                while len(self._benches) > _OPEN:
                    self._benches.popitem(last=False)
            self._benches.move_to_end(key)
        return ("opened", self.bench.tolerance)

    def _made(self, problem: str, seed: int, drawn: str | None) -> cuda_candidate.Bench:
        target = registry.parse_problem(problem)
        return cuda_candidate.Bench(target, self._name, self._target, self._l2, seed, drawn)

    def _with_room(self, make: Callable[[], _T]) -> _T:
        """What `make` gives; if memory does not hold it, again without what the other problems have there."""
        try:
            return make()
        except torch.OutOfMemoryError:
            for bench in self._benches.values():
                bench.forget()
            self._ready.clear()
            torch.cuda.empty_cache()
            return make()

    def measure(self, config: dict, samples: int, energy: bool = False) -> tuple:
        """("ok", Measurement, error), ("wrong", message, error) or ("impossible", message). energy: count it too."""
        try:
            ready = self._with_room(lambda: self.bench.prepare(Config(config)))
            measurements = self._taken([ready], lambda: [measure(ready, samples)], energy)
        except WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        except Impossible as impossible:
            return ("impossible", str(impossible))
        return ("ok", measurements[0], ready.error)

    def _taken(
        self, ready: Sequence[cuda_candidate.PreparedCandidate], take: Callable[[], list[Measurement]], energy: bool
    ) -> list[Measurement]:
        """Measurements to be trusted. Raises Impossible, and NoEnergy where energy cannot be counted."""
        measurements = self._trust.take(ready, take)
        if energy:
            joules = [joules_a_call(self._trust.watch, r.run) for r in ready]
            measurements = [replace(m, energy_uj=1e6 * j) for m, j in zip(measurements, joules, strict=True)]
        return measurements

    def duel(self, config: dict, champion: dict, rounds: int, verify: bool, energy: bool = False) -> tuple:
        """("duel", its Measurement, the champion's meanwhile, error or NaN), ("wrong", message, error) or
        ("impossible", message)."""
        best = self._kept(Config(champion), verify=False)
        try:
            challenger = self._kept(Config(config), verify)
        except WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        try:
            mine, theirs = self._taken(
                [challenger, best], lambda: [summarize(t) for t in duel(challenger.sample, best.sample, rounds)], energy
            )
        except Impossible as impossible:
            return ("impossible", str(impossible))
        return ("duel", mine, theirs, challenger.error)

    def rematch(self, configs: list[dict], rounds: int, energy: bool = False) -> tuple:
        """("rematch", measurements, errors, bytes a second that the GPU read meanwhile). What is wrong is an error."""
        self._ready.clear()
        ready = self._with_room(lambda: [self.bench.prepare(Config(c)) for c in configs])
        rates: list[float] = []

        def take() -> list[Measurement]:
            measurements, rate = rematch(ready, rounds, self._trust.probe())
            rates.append(rate)
            return measurements

        measurements = self._taken(ready, take, energy)
        return ("rematch", measurements, [r.error for r in ready], rates[-1])

    def _kept(self, config: Config, verify: bool) -> cuda_candidate.PreparedCandidate:
        if config not in self._ready:
            while len(self._ready) >= _KEPT:
                self._ready.popitem(last=False)
            self._ready[config] = self._with_room(lambda: self.bench.prepare(config, verify))
        self._ready.move_to_end(config)
        return self._ready[config]
