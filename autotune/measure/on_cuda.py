"""What a worker does on a GPU: open a problem, time one candidate, two in turn, or several."""

from collections import OrderedDict

import torch

from autotune.measure import cuda_candidate
from autotune.measure.cuda_bandwidth import ReadProbe
from autotune.measure.judge import WrongResult, duel, measure, rematch, summarize
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.space import Config

_KEPT = 2  # captured candidates that stay for the next duel: the best one and its last challenger


class OnCuda:
    """The current problem of GPU `index`, and the candidates that may be wanted again."""

    def __init__(self, index: int):
        torch.cuda.set_device(index)
        self._index, self._name = index, f"cuda:{index}"
        self._target, self._l2 = machine.target(machine.detect(index)), machine.l2_bytes(index)
        self._bench: cuda_candidate.Bench | None = None
        self._key = ("", 0)
        self._ready: OrderedDict[Config, cuda_candidate.Ready] = OrderedDict()
        self._probe: ReadProbe | None = None

    @property
    def bench(self) -> cuda_candidate.Bench:
        if self._bench is None:
            raise RuntimeError("no problem is open")
        return self._bench

    def open(self, problem: str, seed: int, units: int, drawn: str | None = None) -> tuple:
        """Draw inputs and compute the reference's answer, unless that is done, or was by whoever wrote the file
        `drawn`; ("opened", tolerance)."""
        if self._bench is None or self._key != (problem, seed):
            self._ready.clear()
            self._bench = None
            torch.cuda.empty_cache()
            target = registry.parse_problem(problem)
            self._bench = cuda_candidate.Bench(target, self._name, self._target, self._l2, seed, drawn)
            self._key = (problem, seed)
        return ("opened", self.bench.tolerance)

    def measure(self, config: dict, samples: int) -> tuple:
        """("ok", Measurement, error) or ("wrong", message, error)."""
        try:
            ready = self.bench.prepare(Config(config))
        except WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        return ("ok", measure(ready, samples), ready.error)

    def duel(self, config: dict, champion: dict, rounds: int, verify: bool) -> tuple:
        """("duel", its Measurement, the champion's meanwhile, error or NaN) or ("wrong", message, error)."""
        best = self._kept(Config(champion), verify=False)
        try:
            challenger = self._kept(Config(config), verify)
        except WrongResult as wrong:
            return ("wrong", str(wrong), wrong.error)
        mine, theirs = duel(challenger.sample, best.sample, rounds)
        return ("duel", summarize(mine), summarize(theirs), challenger.error)

    def rematch(self, configs: list[dict], rounds: int) -> tuple:
        """("rematch", measurements, errors, bytes a second that the GPU read meanwhile). What is wrong is an error."""
        self._ready.clear()
        ready = [self.bench.prepare(Config(c)) for c in configs]
        if self._probe is None:
            self._probe = ReadProbe(self._index)
        measurements, rate = rematch(ready, rounds, self._probe)
        return ("rematch", measurements, [r.error for r in ready], rate)

    def _kept(self, config: Config, verify: bool) -> cuda_candidate.Ready:
        if config not in self._ready:
            while len(self._ready) >= _KEPT:
                self._ready.popitem(last=False)
            self._ready[config] = self.bench.prepare(config, verify)
        self._ready.move_to_end(config)
        return self._ready[config]
