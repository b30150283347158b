"""One kernel call, ready to run: what a template's `launches` gives to whoever runs, captures or compiles it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """What the code may use. pdl: programmatic dependent launch (Hopper and later); asm: inline assembly, which
    Triton's interpreter has not."""

    pdl: bool
    asm: bool


HOPPER, OLDER, INTERPRETED = Target(True, True), Target(False, True), Target(False, False)


@dataclass(frozen=True)
class Launch:
    """A Triton kernel with everything it is called with; the tensors in it stay alive as long as it does.

    name: what the kernel does, for tables and profiles; arguments: the runtime arguments, the kernel's first parameters
    in order; constants: its constexpr parameters by name, PDL and ASM excepted, which the target decides. after_all: it
    starts when all before it has ended and is to be seen, so that kernels behind it may read that before they wait.
    """

    name: str
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    warps: int = 4
    after_all: bool = False

    def run(self, target: Target) -> None:
        """Launch on the current stream, or interpret."""
        self.kernel[self.grid](*self.arguments, **self._options(target))

    def compile(self, target: Target) -> Any:
        """Compile for the current GPU without running, into Triton's cache on disk; Triton's CompiledKernel."""
        return self.kernel.warmup(*self.arguments, grid=self.grid, **self._options(target))

    def _options(self, target: Target) -> dict[str, Any]:
        pdl = target.pdl and not self.after_all
        options = {**self.constants, "PDL": pdl, "ASM": target.asm, "num_warps": self.warps}
        return options | {"launch_pdl": True} if pdl else options
