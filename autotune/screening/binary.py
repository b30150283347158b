"""Compiled kernels of a candidate: the machine code, how it is launched, and the resources it takes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from autotune.screening import cubin, machine_code
from autotune.screening.machine_code import Code
from kernel_templates.space import Config

if TYPE_CHECKING:
    from kernel_templates.cuda.kernel_cache import CompiledKernel
    from kernel_templates.cuda.launch import Launch


@dataclass(frozen=True)
class KernelResources:
    """What a kernel takes of a multiprocessor. digest: kernels that have it in common do the same; programs: of the
    grid; threads, shared: of a program, threads and bytes; spills: bytes of local memory a thread uses."""

    name: str
    digest: str
    programs: int
    threads: int
    shared: int
    registers: int
    spills: int
    code: Code


@dataclass(frozen=True)
class Candidate:
    """A compiled configuration and its kernels, or why it has none."""

    config: Config
    kernels: tuple[KernelResources, ...]
    failure: str | None = None


@dataclass(frozen=True)
class Binary:
    """programs: of the grid; threads: of a program; shared: bytes of a program; scalars: the numbers it is called with;
    text: machine code; spills: bytes of local memory a thread uses."""

    name: str
    programs: int
    threads: int
    shared: int
    scalars: tuple[float, ...]
    registers: int
    spills: int
    text: bytes

    @cached_property
    def digest(self) -> str:
        """Of the machine code and of how it is launched: what has the same digest does the same, with names and lines
        of the source left out."""
        launched = repr((self.programs, self.threads, self.shared, self.scalars)).encode()
        return hashlib.sha256(launched + self.text).hexdigest()[:16]

    @property
    def resources(self) -> KernelResources:
        """Raises ValueError for what is no machine code."""
        code = machine_code.read(self.text)
        return KernelResources(
            self.name, self.digest, self.programs, self.threads, self.shared, self.registers, self.spills, code
        )


def of(launch: "Launch", kernel: "CompiledKernel") -> Binary:
    """From a launch and its kernel. Raises BadCubin."""
    found = cubin.read(kernel.cubin)
    programs = 1
    for count in launch.grid:
        programs *= count
    scalars = tuple(float(a) for a in launch.arguments if isinstance(a, int | float))
    return Binary(
        launch.name, programs, 32 * kernel.warps, kernel.shared, scalars, found.registers, found.spills,
        found.text,
    )  # fmt: skip
