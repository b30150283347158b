"""A problem whose candidates are compiled for this processor and misbehave in machine code; the worker that runs them.

y = 2 x over 1024 float32, by the real backend (`autotune.runner.cpu_worker`): verified between redzones, timed in a
graph.
"""

import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from autotune.runner.cpu_worker import CpuBackend
from autotune.runner.process_group import die_with_parent
from autotune.runner.worker import serve
from kernel_templates import registry
from kernel_templates.cpu import simd
from kernel_templates.cpu.compile import compile_kernel
from kernel_templates.cpu.graph import step
from kernel_templates.cpu.simd import load_i64
from kernel_templates.operation import Inputs, Operation, Work
from kernel_templates.problem import Problem
from kernel_templates.space import Parameter, Space

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
COUNT, LANES = 1024, 16
FAULTS = {
    "none": "ok",
    "slow": "ok",
    "hang": "timed_out",
    "segfault": "crashed",
    "bounds": "crashed",
    "nan": "wrong",
    "wrong": "wrong",
    "short": "wrong",
}
SPACE = Space((Parameter("fault", tuple(FAULTS), "slow", "what it does wrong"),))


@dataclass(frozen=True)
class Native(Problem, op="native", template_version=1):
    size: int


def _compile(problem: Problem, config, features):
    fault = config["fault"]
    load, splat = simd.load("f32", LANES), simd.splat("f32", LANES)
    factor = np.float32(np.nan) if fault == "nan" else np.float32(3.0 if fault == "wrong" else 2.0)
    count = COUNT + (LANES if fault == "bounds" else -LANES if fault == "short" else 0)
    rounds = 2000 if fault == "slow" else 1 << 60 if fault == "hang" else 1
    beside = 1 << 45 if fault == "segfault" else 0

    def double(arguments, sync, thread, threads):
        if thread == 0:
            source, target = load_i64(arguments), load_i64(arguments + 8) + beside
            for _ in range(rounds):
                for i in range(0, count, LANES):
                    simd.store(target + 4 * i, load(source + 4 * i) * splat(factor))

    return compile_kernel(double, f"native fault {fault}")


def _inputs(problem: Problem, seed: int) -> Inputs:
    x = np.random.default_rng(seed).random(COUNT + LANES, np.float32) + np.float32(1.0)
    return Inputs({}, {"x": x, "y": np.zeros(COUNT, np.float32)})


TEMPLATE = SimpleNamespace(
    compile=_compile,
    scratch_bytes=lambda problem, config: 64,
    pack=lambda problem, config, weights: (),
    bind=lambda problem, config, kernel, packed, b: step(kernel, (b["x"], b["y"])),
)


def operation() -> Operation:
    return Operation(
        Native.op, Native, _inputs, lambda problem, inputs: {"y": 2.0 * inputs.buffers["x"][:COUNT].astype(np.float64)},
        lambda _: Work(8 * COUNT, COUNT), lambda _: 1e-6,
    )  # fmt: skip


if __name__ == "__main__":
    die_with_parent()
    registry.OPERATIONS[Native.op] = operation()
    sys.modules[f"kernel_templates.{Native.op}.cpu"] = TEMPLATE
    serve(Connection(int(sys.argv[1])), lambda target: CpuBackend())
