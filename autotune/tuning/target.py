"""What is tuned for: the device, how its templates can be built, and how its worker processes share the work."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from autotune.runner.worker_process import PROGRAM
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.operation import Work
from kernel_templates.problem import Problem
from kernel_templates.space import Space
from tuning_db.records import Objective

MOST_COMPILERS = 32  # for a GPU: more do not help, for candidates are not measured faster than these compile


@dataclass(frozen=True)
class TuneTarget:
    """A device as the tuner sees it.

    name: "cpu" or "cuda:0"; compile_target: what compiles for it, "cpu" or "sm90"; space: a problem's space there;
    work: what it must move and compute as it is timed there; compilers: processes that compile side by side;
    separate_measurer: whether one more process measures meanwhile; compile_s, measure_s: seconds after which a request
    counts as hung; program: the worker's command; identity: what tells this chip from others of its machine; objective:
    what is made small.
    """

    name: str
    compile_target: str
    device: Device
    space: Callable[[Problem], Space]
    work: Callable[[Problem], Work]
    compilers: int
    separate_measurer: bool
    compile_s: float = 60.0
    measure_s: float = 60.0
    program: tuple[str, ...] = PROGRAM
    identity: str = ""
    objective: Objective = Objective.TIME

    @property
    def measures_energy(self) -> bool:
        """Whether the objective needs the energy of a call."""
        return self.objective is not Objective.TIME


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(problem: Problem) -> Work:
    return registry.get(problem.op).work(problem)


def cpu() -> TuneTarget:
    """This machine's processor."""
    from kernel_templates.cpu import machine

    def space(problem: Problem) -> Space:
        return registry.cpu_space(problem, machine.features())

    device = machine.detect()
    compilers = max(2, min(device.units, 8))
    return TuneTarget("cpu", "cpu", device, space, _work, compilers, separate_measurer=False, identity="cpu")


def cuda(index: int = 0) -> TuneTarget:
    """A GPU. Raises DeviceError when it cannot be used."""
    from kernel_templates.cuda import machine

    device = machine.detect(index)
    # A tile of thousands of elements a thread can compile for a minute, and would not be fast: it is given up. The
    # search and the process that measures take half a core each, and go before the compilers wherever they meet.
    return TuneTarget(
        f"cuda:{index}",
        f"sm{device.capability.replace('.', '')}",
        device,
        lambda problem: registry.cuda_space(problem, device),
        lambda problem: _work(problem.typical),
        max(1, min(cores() - 1, MOST_COMPILERS)),
        separate_measurer=True,
        compile_s=8.0,
        measure_s=30.0,
        identity=identity(f"cuda:{index}"),
    )


def identity(name: str) -> str:
    """What tells the chip called "cpu" or "cuda:0" from others of this machine, whatever a process calls them."""
    if name == "cpu":
        return name
    from kernel_templates.cuda import machine

    return machine.uuid(machine.index_of(name)) or name


def of(name: str) -> TuneTarget:
    """The target called "cpu" or "cuda:0"."""
    if name == "cpu":
        return cpu()
    from kernel_templates.cuda import machine

    return cuda(machine.index_of(name))
