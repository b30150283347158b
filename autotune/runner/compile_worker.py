"""What a worker does for a GPU without touching one: compile into Triton's cache on disk, and generate inputs.

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

from autotune.runner import protocol
from autotune.runner.meta_problem import MetaProblem
from autotune.screening import binary
from kernel_templates import proof, registry
from kernel_templates.cuda.crosscompile import capability_target
from kernel_templates.cuda.launch import Launch

KEPT = 4  # meta problems: one queue serves a problem and those after it
NICENESS = 5  # the process that measures comes first


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


class CompileBackend(protocol.Backend):
    """The shapes of the problems at hand, and what was compiled for them."""

    def __init__(self, capability: int):
        torch.set_num_threads(1)
        with suppress(OSError):
            os.nice(NICENESS)
        self._capability = capability
        self._problems: OrderedDict[str, MetaProblem] = OrderedDict()
        self._launchers: set[tuple] = set()

    def compile(self, request: protocol.Compile) -> protocol.Compiled:
        """Compile the kernels that Triton's cache lacks. Of a configuration that calls a library too nothing is said
        about the resources: its machine code is not all here."""
        start = time.perf_counter()
        problem = self._problem(request.problem)
        base = [] if request.base is None else problem.launches(request.base)
        known = {_identity(launch) for launch in base if isinstance(launch, Launch)}
        part, parts = request.share
        launches = problem.launches(request.config)
        found: list[binary.KernelResources | None] = []
        for launch in launches[part::parts]:
            if isinstance(launch, Launch):
                found.append(None if _identity(launch) in known else self._compiled(launch).resources)
        whole = all(isinstance(launch, Launch) for launch in launches)
        return protocol.Compiled(time.perf_counter() - start, tuple(found) if whole else ())

    def inspect(self, request: protocol.Inspect) -> protocol.Inspected:
        """Compile all kernels of a configuration; no binaries where it calls a library too."""
        start = time.perf_counter()
        launches = self._problem(request.problem).launches(request.config)
        whole = all(isinstance(launch, Launch) for launch in launches)
        binaries = tuple(self._compiled(launch) for launch in launches) if whole else ()
        return protocol.Inspected(time.perf_counter() - start, binaries)

    def generate_inputs(self, request: protocol.GenerateInputs) -> protocol.InputsGenerated:
        """Write what candidates are proved on (`proof.Proof`) to a file, which is there once it is whole."""
        found = proof.of(registry.parse_problem(request.problem), request.seed)
        unfinished = Path(f"{request.path}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                pickle.dump(found, file, pickle.HIGHEST_PROTOCOL)
            unfinished.replace(request.path)
        finally:
            unfinished.unlink(missing_ok=True)
        return protocol.InputsGenerated()

    def _compiled(self, launch: Launch) -> binary.Binary:
        kernel = compile_for(launch, self._capability)
        self._prepare_launcher(kernel)
        return binary.of(launch, kernel)

    def _problem(self, key: str) -> MetaProblem:
        if key not in self._problems:
            while len(self._problems) >= KEPT:
                self._problems.popitem(last=False)
            self._problems[key] = MetaProblem(registry.parse_problem(key))
        self._problems.move_to_end(key)
        return self._problems[key]

    def _prepare_launcher(self, kernel: Any) -> None:
        """Have the C function that passes the arguments in Triton's cache as well: a run of the C compiler for every
        signature. Where that cannot be, for want of the driver's library, the process that measures does it."""
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
