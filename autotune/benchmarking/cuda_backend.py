"""A model benchmark on a GPU: what a token has to read, and the time of each of its kernels captured alone."""

from typing import Any

import torch

from autotune.benchmarking import token_time
from autotune.benchmarking.benchmark_result import KernelTime
from autotune.benchmarking.token_time import work_bytes
from autotune.runner import ceilings
from autotune.runner.cuda_bandwidth import ReadProbe
from kernel_templates.cuda import machine
from kernel_templates.cuda.launch import Launch
from model.cuda.execution import Cut
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
        by_host = sum(work_bytes(layer.mixture) for layer in loaded.layers if layer.host is not None)
        kernels, _ = _parted(_token(engine, _bound(engine, position)))
        return len(kernels), layers - by_host + work_bytes(loaded.head)

    def kernels(self, side: str, engine: Model, position: int) -> list[KernelTime]:
        """Rows of `token_time.profile`: a token at `position`, or before the end of its kernels' context. Where the
        host computes experts, a row of that, with the way there and back, and the token as it is decoded."""
        decoder, bound = engine.runner.decoder, _bound(engine, position)
        position = max(0, min(position, min(bound, decoder.context) - token_time.REPLAYS - 1))  # a replay moves it by 1

        def rewind() -> None:
            decoder.buffers["position"].fill_(position)

        rewind()
        watch = token_time.Stopwatch(self._index, decoder.executor.target)
        every = _token(engine, bound)
        launches, cuts = _parted(every)
        sizes = token_time.bytes_by_kernel(launches, decoder.model, position)
        rows = token_time.profile(launches, sizes, watch, rewind)
        if cuts:
            program, by_host = (decoder.executor.program(some) for some in (every, cuts))
            host = KernelTime.of("experts on the CPU", len(cuts), watch.microseconds(by_host, rewind), None)
            whole = KernelTime.of(
                KernelTime.TOKEN, len(launches), watch.microseconds(program, rewind), rows[-1].bytes
            )  # fmt: skip
            rows[-1:] = [host, whole]
        return rows

    def release(self) -> None:
        torch.cuda.empty_cache()


def open_backend(db: TuningDB, index: int) -> CudaBackend:
    return CudaBackend(db, index)


def _parted(launches: list[Any]) -> tuple[list[Launch], list[Cut]]:
    """The kernels, and what is done between them."""
    cuts = [launch for launch in launches if isinstance(launch, Cut)]
    return [launch for launch in launches if not isinstance(launch, Cut)], cuts


def _token(engine: Model, bound: int) -> list[Any]:
    """The kernels of one greedy token at a position below `bound`, and the cuts between them."""
    return [launch for part in ("layers", "head", "greedy") for launch in engine.runner.decoder.launches(part, bound)]


def _bound(engine: Model, position: int) -> int:
    """Which context's kernels a token at `position` runs."""
    return next(c for c in contexts(engine.context) if position < c)
