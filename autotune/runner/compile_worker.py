"""What a worker does for a GPU without touching one: compile into the cache on disk that launches read
(`kernel_templates.cuda.kernel_cache`), and generate inputs. No CUDA context, no memory of the GPU, and a process that
starts sooner.
"""

import os
import pickle
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import torch

from autotune.runner import protocol
from autotune.runner.meta_problem import MetaProblem
from autotune.screening import binary
from kernel_templates import proof, registry
from kernel_templates.cuda import kernel_cache
from kernel_templates.cuda.launch import Launch, capability_target

KEPT = 4  # meta problems: one queue serves a problem and those after it
NICENESS = 10  # the process that measures comes first: a compiler beside it gets a tenth of their core


class CompileBackend(protocol.Backend):
    """The shapes of the problems at hand, and what was compiled for them."""

    def __init__(self, capability: int):
        torch.set_num_threads(1)
        with suppress(OSError):
            os.nice(NICENESS)
        self._capability = capability
        self._problems: OrderedDict[str, MetaProblem] = OrderedDict()

    def compile(self, request: protocol.Compile) -> protocol.Compiled:
        """Compile the kernels that the cache lacks. Of a configuration that calls a library too nothing is said
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
        return binary.of(launch, kernel_cache.get(launch, capability_target(self._capability), self._capability))

    def _problem(self, key: str) -> MetaProblem:
        if key not in self._problems:
            while len(self._problems) >= KEPT:
                self._problems.popitem(last=False)
            self._problems[key] = MetaProblem(registry.parse_problem(key))
        self._problems.move_to_end(key)
        return self._problems[key]


def _identity(launch: Launch) -> tuple:
    """What tells one compiled kernel from another, among launches of one problem."""
    return launch.kernel, launch.warps, tuple(sorted((name, str(value)) for name, value in launch.constants.items()))
