"""The process that measures for `bench_matmul`: in a final comparison the library's product takes its turn, last.

That is y [tokens, rows] = x W^T of a matrix expanded before, over copies that exceed the last cache, as a candidate's
are: in float16 with float32 sums by cuBLAS on a GPU, in float32 by oneDNN on a processor, for torch itself asks MKL,
which is not made for AMD's processors. Everything else is a tuning run's worker (`autotune.runner.worker`).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from autotune.runner import cpu_candidate, cpu_worker, cuda_worker, gpu_timer, worker
from autotune.runner.cuda_candidate import SAMPLE_NS, PreparedCandidate, copies
from autotune.runner.process_group import die_with_parent
from autotune.runner.protocol import Backend
from kernel_templates.cuda import machine
from kernel_templates.problem import Problem
from kernel_templates.space import Config

NAMES = {"cuda": "cuBLAS float16", "cpu": "oneDNN float32"}
COMMAND = (sys.executable, "-P", os.path.abspath(__file__))
UNVERIFIED = float("nan")


def sizes(problem: Any) -> tuple[int, int, int]:
    """(rows, columns, tokens) of a product; one token's is a `matvec`."""
    return problem.rows, problem.cols, getattr(problem, "tokens", 1)


def moved(problem: Problem, backend: str) -> int:
    """Bytes of the library's operands, each read or written once."""
    rows, cols, tokens = sizes(problem)
    each = {"cuda": 2, "cpu": 4}[backend]
    return each * rows * cols + tokens * (each * cols + 4 * rows)


class CudaBackend(cuda_worker.CudaBackend):
    """The tuner's, and of every shape the copies of an expanded matrix."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._cache_bytes = machine.l2_bytes(index)
        self._expanded: dict[tuple[int, int], list[torch.Tensor]] = {}

    def finalists(self, configs: Sequence[Config]) -> list[PreparedCandidate]:
        return [*super().finalists(configs), self._library()]

    def _library(self) -> PreparedCandidate:
        rows, cols, tokens = sizes(self.problem.problem)
        x = torch.randn(tokens, cols, dtype=torch.float16, device="cuda")
        y = torch.empty(tokens, rows, device="cuda")
        matrices = self._copies(rows, cols)

        def each() -> None:
            for matrix in matrices:
                torch.mm(x, matrix.T, out_dtype=torch.float32, out=y)

        graph = gpu_timer.capture(each)
        once = gpu_timer.mean_ns(graph.replay, 2)
        replays = max(2, min(50, round(SAMPLE_NS / once)))
        used: Any = (x, y, *matrices)  # as long as the graph
        return PreparedCandidate(Config({}), graph, len(matrices), replays, UNVERIFIED, used)

    def _copies(self, rows: int, cols: int) -> list[torch.Tensor]:
        if (rows, cols) not in self._expanded:
            size = 2 * rows * cols
            count = copies(size, size, 2 * self._cache_bytes, torch.cuda.mem_get_info()[0])
            made = (torch.randn(rows, cols, dtype=torch.float16, device="cuda") / cols**0.5 for _ in range(count))
            self._expanded[rows, cols] = list(made)
        return self._expanded[rows, cols]


@dataclass(frozen=True)
class OnProcessor:
    """The library's product, as a candidate of a comparison. calls: of a sample; error, cold_bytes: nothing is
    claimed."""

    call: Callable[[], None]
    calls: int
    error: float = UNVERIFIED
    cold_bytes: int = 0

    def sample(self) -> float:
        """Nanoseconds a call takes."""
        start = time.perf_counter_ns()
        self.call()
        return (time.perf_counter_ns() - start) / self.calls


class CpuBackend(cpu_worker.CpuBackend):
    """The tuner's. Its candidates' threads sleep while the library's work, and the other way round."""

    def finalists(self, configs: Sequence[Config]) -> list[Any]:
        return [*super().finalists(configs), self._library()]

    def _library(self) -> OnProcessor:
        torch.set_num_threads(self.problem.pool.threads)
        rows, cols, tokens = sizes(self.problem.problem)
        count = max(1, min(8, -(-cpu_candidate.working_set() // (4 * rows * cols))))
        x, matrices = torch.randn(tokens, cols), [torch.randn(rows, cols) for _ in range(count)]

        def call() -> None:
            for matrix in matrices:
                torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")

        return OnProcessor(call, count)


def backend(target: str) -> Backend:
    """As `autotune.runner.worker.backend`."""
    if target == "cpu":
        return CpuBackend()
    return CudaBackend(machine.index_of(target))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    worker.serve(Connection(int(sys.argv[1])), backend, sys.argv[2] if len(sys.argv) > 2 else "")


if __name__ == "__main__":
    main()
