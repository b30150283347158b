"""A model benchmark on a GPU: what a token has to read, and the time of each of its kernels captured alone."""

import torch

from autotune.benchmarking import token_time
from autotune.benchmarking.benchmark_result import KernelTime
from autotune.benchmarking.token_time import work_bytes
from autotune.runner import ceilings
from autotune.runner.cuda_bandwidth import ReadProbe
from kernel_templates.cuda import machine
from kernel_templates.cuda.launch import Launch
from model.engine import Model
from model.problems import contexts
from tuning_db import TuningDB

READS = 3  # of the memory in a turn, of which the fastest counts
RESERVE = 4 << 30  # bytes of the GPU's memory: caches, prefill, CUDA itself


class CudaBackend:
    """See `model_benchmark.Backend`."""

    PROMPT, DEPTHS, CAPTURED_ALONE = 2048, (0, 4096), True
    WIDTHS, PROMPTS, TEXTS = ("prompt", "batch"), (16, 64, 256, 512, 2048), (8, 32)

    def __init__(self, db: TuningDB, index: int):
        self.device = machine.detect(index)
        self._index = index
        self._ceiling = ceilings.known_or_measured(db, self.device, index=index)["read_gb_s"]
        self.read_rounds: list[float] = []

    def holds_both(self, file_bytes: int) -> bool:
        return file_bytes * 3 + RESERVE < torch.cuda.mem_get_info(self._index)[0]

    def observe(self, side: str, engine: Model, position: int) -> None:
        """Reads the memory, through a probe of the moment: what it takes of the memory is for the engines."""
        probe = ReadProbe(self._index)
        self.read_rounds.append(probe.nbytes / min(probe.seconds() for _ in range(READS)) / 1e9)

    def read_gb_s(self) -> float:
        """The ceiling, which is the best of several ways to read, unless the rounds were faster."""
        return max([self._ceiling, *self.read_rounds])

    def cache_bytes(self) -> int:
        return machine.l2_bytes(self._index)

    def token(self, engine: Model, position: int) -> tuple[int, int]:
        loaded = engine.runner.decoder.model
        layers = sum(work_bytes(layer.problem.below(position + 1)) for layer in loaded.layers)
        return len(_token(engine, _bound(engine, position))), layers + work_bytes(loaded.head)

    def kernels(self, side: str, engine: Model, position: int) -> list[KernelTime]:
        """Rows of `token_time.profile`: a token at `position`, or before the end of its kernels' context."""
        decoder, bound = engine.runner.decoder, _bound(engine, position)
        position = max(0, min(position, min(bound, decoder.context) - token_time.REPLAYS - 1))  # a replay moves it by 1

        def rewind() -> None:
            decoder.buffers["position"].fill_(position)

        rewind()
        watch = token_time.Stopwatch(self._index, decoder.executor.target)
        launches = _token(engine, bound)
        sizes = token_time.bytes_by_kernel(launches, decoder.model, position)
        return token_time.profile(launches, sizes, watch, rewind)

    def release(self) -> None:
        torch.cuda.empty_cache()


def open_backend(db: TuningDB, index: int) -> CudaBackend:
    return CudaBackend(db, index)


def _token(engine: Model, bound: int) -> list[Launch]:
    """The kernels of one greedy token at a position below `bound`."""
    return [launch for part in ("layers", "head", "greedy") for launch in engine.runner.decoder.launches(part, bound)]


def _bound(engine: Model, position: int) -> int:
    """Which context's kernels a token at `position` runs."""
    return next(c for c in contexts(engine.context) if position < c)
