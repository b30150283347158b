"""Calling what lives inside compiled code from a test: vector functions on arrays, and whole templates on Inputs."""

from collections.abc import Callable, Mapping

import numpy as np
from numba import njit

from kernel_templates import memory, registry
from kernel_templates.cpu import machine, simd
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.formats import Format
from kernel_templates.operation import Inputs
from kernel_templates.problem import Problem
from kernel_templates.space import Config


def widened(fmt: Format) -> int:
    """Bytes that a block gains when it is packed, because subscales of a few bits become bytes."""
    if not fmt.quantized:
        return 0
    kinds = [kind for kind in (fmt.layout.subscales, fmt.layout.subminimums) if kind is not None]
    return fmt.layout.groups * sum(8 - kind.bits for kind in kinds) // 8


DTYPES = {"i8": np.int8, "i16": np.int16, "i32": np.int32, "f16": np.float16, "bf16": np.uint16, "f32": np.float32}


def vector_function(function: Callable, kinds: tuple[str, ...], result: str, lanes: int) -> Callable[..., np.ndarray]:
    """`function` over Vec(kind, lanes)... -> Vec(result, lanes), njit or intrinsic, as a function of arrays [lanes]."""
    loads = [simd.load(kind, lanes) for kind in kinds]
    if len(kinds) == 1:
        (load,) = loads

        @njit
        def call(a, b, c, out):
            simd.store(out, function(load(a)))

    elif len(kinds) == 2:
        load, second = loads

        @njit
        def call(a, b, c, out):
            simd.store(out, function(load(a), second(b)))

    else:
        load, second, third = loads

        @njit
        def call(a, b, c, out):
            simd.store(out, function(load(a), second(b), third(c)))

    def on_arrays(*arrays: np.ndarray) -> np.ndarray:
        held = [np.ascontiguousarray(a, DTYPES[kind]) for a, kind in zip(arrays, kinds, strict=True)]
        assert all(a.shape == (lanes,) for a in held)
        out = np.zeros(lanes, DTYPES[result])
        addresses = [a.ctypes.data for a in held] + [0] * (3 - len(held))
        call(*addresses, out.ctypes.data)
        return out

    return on_arrays


WRITTEN_ONLY = {
    "head": ("logits",),
    "matmul": ("y",),
    "grouped_matmul": ("y",),
    "ffn": ("gated",),
    "moe": ("gated", "expert_weights"),
    "attention": ("out",),
    "norm_qkv_rope": ("qkv",),
    "norm_qkvz": ("projected",),
    "gated_delta": ("out",),
}


class Built:
    """One template compiled for one problem and configuration, to be run on any Inputs by any team."""

    def __init__(self, problem: Problem, config: Config | None = None):
        self.problem, self.operation = problem, registry.get(problem.op)
        self.config = config or registry.cpu_space(problem, machine.features()).default
        self.kernel = registry.cpu(problem.op).compile(problem, self.config, machine.features())

    def run(self, given: Inputs, team: ThreadPool) -> Mapping[str, np.ndarray]:
        """Run once; `given.buffers` are the outputs too. What is only written starts as NaN, and so does the scratch
        memory: a row that is left out, or read too early, cannot look right."""
        template = registry.cpu(self.problem.op)
        for name in WRITTEN_ONLY.get(self.problem.op, ()):
            given.buffers[name].fill(np.nan)
        scratch = memory.empty((team.threads * template.scratch_bytes(self.problem, self.config),), np.uint8)
        scratch.fill(0xFF)
        packed = template.pack(self.problem, self.config, given.weights)
        buffers = {**given.buffers, "scratch": scratch}
        Graph(team, [template.bind(self.problem, self.config, self.kernel, packed, buffers)]).replay()
        return given.buffers

    def error(self, seed: int, team: ThreadPool) -> float:
        """On fresh inputs, against the reference."""
        given = self.operation.inputs(self.problem, seed)
        expected = self.operation.reference(self.problem, given)
        return worst_error(self.run(given, team), expected)


def worst_error(written: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest ||out - ref|| / ||ref|| over the outputs; infinite where something is not a number."""
    worst = 0.0
    for name, ref in expected.items():
        out = written[name].reshape(-1)[: ref.size].astype(np.float64)
        error = float(np.linalg.norm(out - ref.reshape(-1)) / np.linalg.norm(ref))
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst
