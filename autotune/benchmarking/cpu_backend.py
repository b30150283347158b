"""The CPU's part of a model benchmark: the read bandwidth meanwhile, and each problem's time inside a token."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import psutil

from autotune.benchmarking.benchmark_result import KernelTime
from autotune.runner.bandwidth import ReadProbe
from autotune.runner.cpu_candidate import working_set
from kernel_templates import registry
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import machine
from kernel_templates.problem import Problem
from model.engine import Model
from model.problems import head_problem, layer_problems, model_problems
from tuning_db import TuningDB

REPLAYS = 5
READS = 3
"""Of the memory in a turn; the fastest counts, since other work makes a reading slower, never faster."""


class CpuBackend:
    """See `model_benchmark.Backend`. Bandwidth and steps are measured in every turn, since a CPU's clocks drift."""

    PROMPT, DEPTHS, CAPTURED_ALONE = 512, (0,), False
    WIDTHS, PROMPTS, TEXTS = ("prompt",), (16, 64, 256), (8,)

    def __init__(self) -> None:
        self.device = machine.detect()
        self.read_rounds: list[float] = []
        self._probes: dict[int, ReadProbe] = {}
        self._steps: dict[str, list[Mapping[Problem, float]]] = {}
        self._whole: dict[str, list[float]] = {}

    def holds_both(self, file_bytes: int) -> bool:
        return file_bytes * 3 < psutil.virtual_memory().available

    def observe(self, side: str, engine: Model, position: int) -> None:
        pool = engine.runner.decoder.pool
        probe = self._probes.setdefault(id(pool), ReadProbe(pool, working_set()))
        self.read_rounds.append(probe.nbytes / min(probe.seconds() for _ in range(READS)) / 1e9)
        steps, whole = _step_times(engine, position)
        self._steps.setdefault(side, []).append(steps)
        self._whole.setdefault(side, []).append(whole)

    def read_gb_s(self) -> float:
        return max(self.read_rounds)

    def cache_bytes(self) -> int:
        return machine.last_level_cache()

    def token(self, engine: Model, position: int) -> tuple[int, int]:
        counts = model_problems(engine.config, engine.file)
        return 1 + sum(counts.values()), sum(_bytes(p, position) * count for p, count in counts.items())

    def kernels(self, side: str, engine: Model, position: int) -> list[KernelTime]:
        """A row a problem, its mean over layers times their number; and the token, with the embedding."""
        counts = model_problems(engine.config, engine.file)
        rows = []
        for problem, count in counts.items():
            us = [times[problem] * count / 1e3 for times in self._steps[side]]
            rows.append(KernelTime.of(problem.key, count, us, _bytes(problem, position) * count))
        number, size = self.token(engine, position)
        return [*rows, KernelTime.of(KernelTime.TOKEN, number, [ns / 1e3 for ns in self._whole[side]], size)]

    def release(self) -> None:
        self._probes.clear()


def open_backend(db: TuningDB, index: int) -> CpuBackend:
    return CpuBackend()


def _step_times(engine: Model, position: int) -> tuple[Mapping[Problem, float], float]:
    """Median nanoseconds of each problem's step inside a token, the mean over its layers; and of the whole token."""
    decoder = engine.runner.decoder
    decoder.prepare(0, position)
    times = np.median([decoder.graph.replay_timed() for _ in range(REPLAYS)], axis=0)
    problems = [p for i in range(engine.config.layers) for p in layer_problems(engine.config, engine.file, i).values()]
    problems.append(head_problem(engine.config, engine.file))
    found: dict[Problem, list[float]] = {}
    for problem, nanoseconds in zip(problems, times[1:], strict=True):  # step 0 is the embedding
        found.setdefault(problem, []).append(float(nanoseconds))
    return {p: float(np.mean(t)) for p, t in found.items()}, float(times.sum())


def _bytes(problem: Problem, position: int) -> int:
    """Bytes that a problem's step has to read and write at a position."""
    if isinstance(problem, Attention):
        problem = replace(problem, context=position + 1)
    return registry.get(problem.op).work(problem).bytes
