"""What a worker does for a GPU without touching one: compile kernels into Triton's cache on disk, and draw inputs.

Triton asks its driver for the device's number and compute capability, and for nothing else until it loads a kernel. A
driver that only knows the capability therefore makes it compile exactly what a launch would, under the same key: the
specialization, the options and the key come from the same lines (`JITFunction.run`), and so the measurer finds the
binary. No CUDA context, no memory of the GPU, and a process that starts sooner.
"""

import os
import pickle
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from autotune.runner.meta_problem import MetaProblem
from autotune.screening import binary
from kernel_templates import registry
from kernel_templates.cuda.crosscompile import capability_target
from kernel_templates.cuda.launch import Launch
from kernel_templates.space import Config

KEPT = 4  # blueprints: one queue serves a problem and those after it
NICENESS = 5  # whoever measures comes first


class CompilingDriver:
    """Triton's view of a GPU that is not here, as far as compiling looks."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_for(launch: Launch, capability: int) -> Any:
    """Compile a launch, whose tensors may be torch's "meta" ones, for a compute capability, e.g. 90; Triton's
    CompiledKernel, not loaded. Raises what Triton's compiler raises."""
    active = triton.runtime.driver
    known = active._active.get_current_target().arch if isinstance(active._active, CompilingDriver) else None
    if known != capability:
        active.set_active(CompilingDriver(capability))
        launch.kernel.device_caches.clear()
    return launch.compile(capability_target(capability))


class Builder:
    """Blueprints of the problems at hand, and what was built for them."""

    def __init__(self, capability: int):
        torch.set_num_threads(1)
        with suppress(OSError):
            os.nice(NICENESS)
        self._capability = capability
        self._blueprints: OrderedDict[str, MetaProblem] = OrderedDict()
        self._launchers: set[tuple] = set()

    def compile(self, problem: str, config: dict, base: dict | None = None, share: tuple[int, int] = (0, 1)) -> tuple:
        """Compile the kernels that Triton's cache lacks; ("compiled", seconds, each kernel's resources). base: another
        configuration, compiled elsewhere: only what differs is compiled here, and of what does not, None is known.
        share: (which, of how many) parts of the kernels."""
        start = time.perf_counter()
        blueprint = self._blueprint(problem)
        known = set() if base is None else {_identity(launch) for launch in blueprint.launches(Config(base))}
        facts: list[binary.KernelResources | None] = []
        for launch in blueprint.launches(Config(config))[share[0] :: share[1]]:
            if _identity(launch) in known:
                facts.append(None)
                continue
            kernel = compile_for(launch, self._capability)
            self._prepare_launcher(kernel)
            facts.append(binary.of(launch, kernel).resources)
        return ("compiled", time.perf_counter() - start, facts)

    def inspect(self, problem: str, config: dict) -> tuple:
        """Compile all kernels of a configuration; ("compiled", seconds, their Binaries in order)."""
        start = time.perf_counter()
        made = []
        for launch in self._blueprint(problem).launches(Config(config)):
            kernel = compile_for(launch, self._capability)
            self._prepare_launcher(kernel)
            made.append(binary.of(launch, kernel))
        return ("compiled", time.perf_counter() - start, made)

    def _blueprint(self, problem: str) -> MetaProblem:
        if problem not in self._blueprints:
            while len(self._blueprints) >= KEPT:
                self._blueprints.popitem(last=False)
            self._blueprints[problem] = MetaProblem(registry.parse_problem(problem))
        self._blueprints.move_to_end(problem)
        return self._blueprints[problem]

    def draw(self, problem: str, seed: int, path: str) -> tuple:
        """Write a problem's inputs and the reference's answer to a file; ("drawn", seconds)."""
        start = time.perf_counter()
        target = registry.parse_problem(problem)
        operation = registry.get(target.op)
        inputs = operation.inputs(target, seed)
        unfinished = Path(f"{path}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                pickle.dump((inputs, dict(operation.reference(target, inputs))), file, pickle.HIGHEST_PROTOCOL)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return ("drawn", time.perf_counter() - start)

    def _prepare_launcher(self, kernel: Any) -> None:
        """Have the C function that passes the arguments in Triton's cache as well: a run of the C compiler for every
        signature. Where that cannot be, for want of the driver's library, whoever measures does it."""
        signature = tuple(kernel.src.signature.items())
        if signature in self._launchers:
            return
        self._launchers.add(signature)
        from triton.backends.nvidia.driver import CudaLauncher

        with suppress(Exception):
            CudaLauncher(kernel.src, kernel.metadata)


def _identity(launch: Launch) -> tuple:
    """What tells one compiled kernel from another, among launches of one problem."""
    return launch.kernel, launch.warps, tuple(sorted((name, str(value)) for name, value in launch.constants.items()))
