"""One configuration of one problem on a GPU: packed, checked against the reference, captured and timed.

Timing reads fresh memory every time: the call is repeated over copies of its weights and KV caches that together exceed
the L2 cache twice, as the layers of a model do, all in one CUDA graph, chained as the decoder chains them. Copies share
their activations, and so do all candidates of a problem: where a buffer lies changes the time of a small kernel by up
to 8% (docs/log.md), by which no candidate should win or lose. At least 4 copies are made: every call follows another;
and at most 64: a matrix of a few kilobytes may still be read from a large cache, as it would be in its model.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.runner import gpu_timer, tensors
from autotune.runner.device_verify import DeviceVerifier
from autotune.runner.measurement_guard import cold_bytes
from autotune.runner.redzones import Redzones
from kernel_templates import proof, registry
from kernel_templates.cuda.launch import Launch, Target
from kernel_templates.operation import CudaTemplate, weight_bytes
from kernel_templates.problem import Problem
from kernel_templates.space import Config

FEWEST, MOST = 4, 64  # copies
PACKS_KEPT = 3  # layouts of the weights that stay on the GPU with their copies: the best one's, and two more
RUN_SAMPLES = 5  # as long as so many samples; energy is counted over many runs
SAMPLE_NS = 1_000_000  # a sample is as many replays as take about this long: see gpu_timer


@dataclass(frozen=True)
class PreparedCandidate:
    """A candidate ready to be timed. `graph`: the captured copies; `calls`: how many there are; `replays`: of the graph
    a sample; `launches` keeps every tensor alive. error: against the reference; NaN if this one was not verified.
    cold_bytes: of a call, those that no cache can hold (see `autotune.runner.measurement_guard`)."""

    config: Config
    graph: Any
    calls: int
    replays: int
    error: float
    launches: Sequence[Launch]
    cold_bytes: int = 0

    def sample(self) -> float:
        """Nanoseconds a call takes, by the GPU's clock."""
        return gpu_timer.mean_ns(self.graph.replay, self.replays) / self.calls

    def run(self) -> int:
        """Some milliseconds of calls, to their end; how many."""
        for _ in range(RUN_SAMPLES * self.replays):
            self.graph.replay()
        torch.cuda.synchronize()
        return RUN_SAMPLES * self.replays * self.calls


class OpenProblem:
    """Everything about one problem that its candidates share: inputs, the reference's outputs, packed weights."""

    def __init__(
        self, problem: Problem, device: str, target: Target, l2_bytes: int, seed: int, inputs: str | None = None
    ):
        """inputs: a file of this problem's inputs and outputs for this seed, as `compile_worker` writes it."""
        self.problem, self.device = problem, device
        self._template, self._target, self._l2 = registry.cuda(problem.op), target, l2_bytes
        operation = registry.get(problem.op)
        if inputs is not None and Path(inputs).exists():
            with Path(inputs).open("rb") as file:
                found = pickle.load(file)
        else:
            found = proof.of(problem, seed)
        self._proof: proof.Proof = found
        self._inputs = self._proof.inputs
        self.tolerance = operation.tolerance(problem)
        self._call_bytes = operation.work(problem.typical).bytes
        self._layer_buffers = operation.layer_buffers
        self._fresh = self._template.prepare(problem, self._inputs, device)
        self._redzones, self._verifier = Redzones(), DeviceVerifier(device)
        self._buffers = tensors.each(self._fresh, self._redzones.tensor)
        self._caches: list[dict[str, Any]] = []  # copies of the layers' own buffers
        self._packed: OrderedDict[tuple, list[tuple]] = OrderedDict()

    def prepare(self, config: Config, verify: bool = True) -> PreparedCandidate:
        """Verify on fresh buffers, then capture the copies. Raises WrongResult, OutOfBounds, or what Triton and CUDA
        raise."""
        packed = self._pack(config)
        tensors.copy(self._fresh, self._buffers)
        error = float("nan")
        if verify:
            error = self._error(config, packed[0], self._proof.expected)
            for position, expected in self._proof.elsewhere:
                tensors.copy(self._fresh, self._buffers)
                self._buffers["position"].fill_(position)
                error = max(error, self._error(config, packed[0], expected))
            tensors.copy(self._fresh, self._buffers)
        if self.problem.typical_position is not None:  # proved at the last position of its context, timed at this one
            self._buffers["position"].fill_(self.problem.typical_position)
        launches: list[Launch] = []
        caches = {name: self._fresh[name] for name in self._layer_buffers if name in self._fresh}
        size, free = tensors.nbytes(packed[0]) + tensors.nbytes(caches), torch.cuda.mem_get_info()[0]
        if len(packed) == 1:  # copies of this layout that another candidate made are used again, all of them
            read = self._read_of(packed[0]) + tensors.nbytes(caches)
            packed += [tensors.clone(packed[0]) for _ in range(copies(size, read, 2 * self._l2, free) - 1)]
        self._caches += [tensors.clone(caches) for _ in range(len(packed) - len(self._caches))]
        for weights, own in zip(packed, self._caches, strict=False):
            launches += self._template.launches(self.problem, config, weights, {**self._buffers, **own})
        graph = gpu_timer.capture(lambda: self._run(launches))
        once = gpu_timer.mean_ns(graph.replay, 2)  # after a first replay, which uploads the graph
        replays = max(2, min(50, round(SAMPLE_NS / max(once, 1.0))))
        cold = cold_bytes(min(self._call_bytes, size), len(packed), self._l2)
        return PreparedCandidate(config, graph, len(packed), replays, error, launches, cold)

    def check_buffers(self) -> None:
        """Raises OutOfBounds where anything was written beside the buffers."""
        torch.cuda.synchronize()
        self._redzones.check()

    def _error(self, config: Config, weights: tuple, expected: Mapping[str, np.ndarray]) -> float:
        """Of the outputs, against the reference. Raises WrongResult and OutOfBounds."""
        self._redzones.renew()
        self._run(self._template.launches(self.problem, config, weights, self._buffers))
        self.check_buffers()
        return self._verifier.verify(self._template.collect(self.problem, self._buffers), expected, self.tolerance)

    def _read_of(self, packed: tuple) -> int:
        """Bytes of the weights that a call reads: all, but of a mixture of experts."""
        size, whole = tensors.nbytes(packed), weight_bytes(self.problem)
        return min(size, self._call_bytes) if self._call_bytes < whole else size

    def _run(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            launch.run(self._target)

    def forget(self) -> None:
        """Let go of the weights and caches that are kept between candidates."""
        self._packed.clear()
        self._caches.clear()
        self._verifier.forget()

    def _pack(self, config: Config) -> list[tuple]:
        """The weights and, once they were made, their copies; shared by the configurations that read them alike."""
        key = pack_key(self._template, config)
        if key not in self._packed:
            # Before packing: a layout that is not used any more must not stand beside the new one.
            while len(self._packed) >= PACKS_KEPT:
                self._packed.popitem(last=False)
            self._packed[key] = [self._template.pack(self.problem, config, self._inputs.weights, self.device)]
        self._packed.move_to_end(key)
        return self._packed[key]


def pack_key(template: CudaTemplate, config: Config) -> tuple:
    """What decides how a configuration wants its weights."""
    return tuple((name, config[name]) for name in template.PACK_DEPENDS)


def copies(size: int, read: int, working_set: int, free: int) -> int:
    """Of how many copies of `size` bytes what calls `read` exceeds `working_set`, within a quarter of the `free`
    memory."""
    wanted = max(FEWEST, min(-(-working_set // max(read, 1)), MOST))
    return max(1, min(wanted, free // 4 // max(size, 1) or 1))
