"""One configuration of one problem on this processor: built, checked against the reference, and timed.

Timing reads fresh memory every time: the call is repeated over copies of its weights that together exceed the
last-level cache, as the layers of a model do, in one graph, so that the barrier after each call is in the time. At most
512 copies are made: a matrix of a few kilobytes may still be read from a very large cache.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil

from autotune.runner.measurement_guard import cold_bytes
from autotune.runner.redzones import Redzones
from kernel_templates import memory, proof, registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.graph import Graph, Step
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from kernel_templates.verify import verify

POISON = np.float32(np.nan)
LARGE = 1 << 16  # buffers from this size (KV caches) are copied along with the weights


@dataclass(frozen=True)
class PreparedCandidate:
    """A verified candidate, ready to be timed. `calls`: how many calls one replay makes; cold_bytes: of a call, those
    that no cache can hold (see `autotune.runner.measurement_guard`)."""

    config: Config
    graph: Graph
    calls: int
    error: float
    compile_s: float
    cold_bytes: int = 0

    def sample(self) -> float:
        """Nanoseconds a call takes, over one replay."""
        start = time.perf_counter_ns()
        self.graph.replay()
        return (time.perf_counter_ns() - start) / self.calls


class OpenProblem:
    """Everything about one problem that its candidates share: inputs, the reference's outputs, the thread pool."""

    def __init__(self, problem: Problem, pool: ThreadPool, seed: int):
        self.problem, self.pool = problem, pool
        self.operation = registry.get(problem.op)
        self._proof = proof.of(problem, seed)
        self._inputs = self._proof.inputs
        self.tolerance = self.operation.tolerance_on("cpu", problem)

    def prepare(self, config: Config, working_set: int) -> PreparedCandidate:
        """Compile, verify on the shared inputs, and lay out `working_set` bytes of copies.

        Raises WrongResult, OutOfBounds, or whatever the compiler raises.
        """
        template = registry.cpu(self.problem.op)
        kernel = template.compile(self.problem, config, machine.features())
        packed = template.pack(self.problem, config, self._inputs.weights)
        scratch_bytes = self.pool.threads * template.scratch_bytes(self.problem, config)
        redzones = Redzones()
        scratch = {"scratch": redzones.array(np.zeros(max(64, scratch_bytes), np.uint8))}

        fresh = self._fresh(redzones)
        once = Graph(self.pool, [template.bind(self.problem, config, kernel, packed, fresh | scratch)])
        error = self._error(once, fresh, redzones)

        steps: list[Step] = []
        for matrices, buffers in self._copies(packed, fresh, working_set):
            steps.append(template.bind(self.problem, config, kernel, matrices, buffers | scratch))
        size = sum(p.nbytes for p in packed) + sum(b.nbytes for b in fresh.values() if b.nbytes >= LARGE)
        call = min(size, self.operation.work(self.problem).bytes)
        cold = cold_bytes(call, len(steps), machine.last_level_cache())
        return PreparedCandidate(config, Graph(self.pool, steps), len(steps), error, kernel.compile_s, cold)

    def _error(self, once: Graph, fresh: dict[str, np.ndarray], redzones: Redzones) -> float:
        """The largest relative error at every position to be proved. Raises WrongResult and OutOfBounds."""
        once.replay()
        redzones.check()
        error = verify(fresh, self._proof.expected, self.tolerance)
        for position, expected in self._proof.elsewhere:
            self._renew(fresh)
            fresh["position"][0] = position
            once.replay()
            redzones.check()
            error = max(error, verify(fresh, expected, self.tolerance))
        if self._proof.elsewhere:
            self._renew(fresh)
        return error

    def _renew(self, fresh: dict[str, np.ndarray]) -> None:
        """The inputs again, and NaN in what is only written."""
        for name, value in self._inputs.buffers.items():
            fresh[name][...] = value
            if name in self._proof.expected and value.dtype == np.float32 and not np.any(value):
                fresh[name].fill(POISON)

    def _fresh(self, redzones: Redzones) -> dict[str, np.ndarray]:
        """Copies of the inputs; what is only written holds NaN, so that a row that was not written is seen."""
        buffers = {name: redzones.array(value) for name, value in self._inputs.buffers.items()}
        self._renew(buffers)
        return buffers

    def _copies(self, packed: Sequence[Tiles], buffers: dict[str, np.ndarray], working_set: int):
        large = {name: b for name, b in buffers.items() if b.nbytes >= LARGE}
        size = sum(p.nbytes for p in packed) + sum(b.nbytes for b in large.values())
        count = max(1, min(-(-working_set // max(size, 1)), 512))
        yield packed, buffers
        for _ in range(count - 1):
            matrices = tuple(replace(p, planes=tuple(_copy(plane) for plane in p.planes)) for p in packed)
            yield matrices, buffers | {name: _copy(b) for name, b in large.items()}


def _copy(array: np.ndarray) -> np.ndarray:
    out = memory.empty(array.shape, array.dtype)
    out[...] = array
    return out


def working_set() -> int:
    """Bytes that no cache holds: twice the largest cache, within an eighth of the free memory."""
    return int(min(max(2 * machine.last_level_cache(), 64 << 20), psutil.virtual_memory().available // 8))
