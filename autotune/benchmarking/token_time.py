"""Times the kernels of a token on a GPU, those of each operation captured alone, beside the whole token.

In a token kernels overlap, since one loads its weights while the one before still computes. So times alone do not add
up to the token's; they say how far each operation is from what memory allows, and which is worth tuning.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from autotune.benchmarking.benchmark_result import KernelTime
from autotune.runner import gpu_timer
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.cuda.graph import Graph
from kernel_templates.cuda.launch import Launch, Target
from kernel_templates.cuda.weights import Planes

REPLAYS, SAMPLES = 20, 5
KEEPING = {"attention": "attention", "delta": "gated_delta"}
"""Parts of a layer that read what is kept of a text, and their kernels."""


class Stopwatch:
    """Microseconds of GPU time: SAMPLES, each the mean of REPLAYS in one stream."""

    def __init__(self, index: int, target: Target) -> None:
        self._device, self._target = torch.device("cuda", index), target
        self._other = torch.ones(machine.l2_bytes(index), dtype=torch.int32, device=self._device)  # four L2 caches
        self._sum = torch.empty((), dtype=torch.int64, device=self._device)

    def repeated(self, launches: Sequence[Launch], rewind: Callable[[], None]) -> list[float]:
        """Times of the launches as one graph, replayed without a gap, as tokens follow each other."""
        return self.microseconds(Graph(launches, self._target, self._device).replay, rewind)

    def from_memory(self, launches: Sequence[Launch], rewind: Callable[[], None]) -> list[float]:
        """As `repeated`, but what they read is in no cache: all weights of one operation may fit into the second-level
        cache, where a token never finds them. Something else is read in between, and its own time taken off."""
        graph = Graph(launches, self._target, self._device)

        def both() -> None:
            self._evict()
            graph.replay()

        everything, beside = self.microseconds(both, rewind), median(self.microseconds(self._evict, rewind))
        return [max(us - beside, 0.0) for us in everything]

    def _evict(self) -> None:
        torch.sum(self._other, 0, out=self._sum)

    def microseconds(self, work: Callable[[], None], rewind: Callable[[], None]) -> list[float]:
        """Times of what `work` starts, replayed as in `repeated`."""
        with torch.cuda.device(self._device):
            return [gpu_timer.mean_ns(work, REPLAYS, rewind) / 1e3 for _ in range(SAMPLES)]


def profile(
    launches: Sequence[Launch], sizes: Mapping[str, int], watch: Stopwatch, rewind: Callable[[], None]
) -> list[KernelTime]:
    """One row per kernel of a token, in the order they first run, and last the token itself.

    sizes: bytes that each kernel must read, by name; rewind: puts the position back. Leaves nonsense in the model's
    buffers and in its cache: an operation repeated without the others overflows.
    """
    by_name: dict[str, list[Launch]] = {}
    for launch in launches:
        by_name.setdefault(launch.name, []).append(launch)
    whole = KernelTime.of(KernelTime.TOKEN, len(launches), watch.repeated(launches, rewind), sum(sizes.values()))
    rows = [
        KernelTime.of(name, len(some), watch.from_memory(some, rewind), sizes.get(name))
        for name, some in by_name.items()
    ]
    return [*rows, whole]


def bytes_by_kernel(launches: Sequence[Launch], loaded: Any, position: int) -> dict[str, int]:
    """What the kernels of a token at `position` read, all layers together: those that take weights, attention and the
    head. loaded: `model.cuda.load.Loaded`."""
    weights: dict[int, int] = {}
    for layer in loaded.layers:
        weights |= _by_address(layer.planes)
        if layer.mixture and layer.host is None:
            weights |= _by_address(layer.experts, layer.mixture.used, layer.mixture.experts)
    sizes: dict[str, int] = {}
    for launch in launches:
        taken = {a.data_ptr() for a in launch.arguments if isinstance(a, torch.Tensor)} & weights.keys()
        if taken:
            sizes[launch.name] = sizes.get(launch.name, 0) + sum(weights[address] for address in taken)
    for layer in loaded.layers:
        for name, problem in layer.problem.below(position + 1).parts().items():
            if name in KEEPING:
                sizes[KEEPING[name]] = sizes.get(KEEPING[name], 0) + work_bytes(problem)
    return sizes | {"head": work_bytes(loaded.head)}


def _by_address(matrices: Sequence[Planes], used: int = 1, experts: int = 1) -> dict[int, int]:
    """Bytes that a token reads of each plane on the device: of `experts` lying one below the other, those of `used`."""
    tensors = [t for planes in matrices for t in planes.tensors if t.device.type != "meta"]
    return {t.data_ptr(): t.nbytes * used // experts for t in tensors}


def work_bytes(problem: Any) -> int:
    """The least that a problem's kernels read and write."""
    return registry.get(problem.op).work(problem).bytes
