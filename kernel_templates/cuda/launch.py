"""One kernel call, ready to run: what a template's `launches` gives to whoever runs, captures or compiles it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_templates.cuda.driver import Call


@dataclass(frozen=True)
class Target:
    """What the code may use. pdl: programmatic dependent launch (Hopper and later); asm: inline assembly, which
    Triton's interpreter has not."""

    pdl: bool
    asm: bool


HOPPER, OLDER, INTERPRETED = Target(True, True), Target(False, True), Target(False, False)
PDL_FROM = 90


def capability_target(capability: int) -> Target:
    """What the code for a compute capability may use, e.g. 90."""
    return HOPPER if capability >= PDL_FROM else OLDER


@dataclass(frozen=True)
class Launch:
    """A Triton kernel with everything it is called with; the tensors in it stay alive as long as it does.

    name: what the kernel does, for tables and profiles; arguments: the runtime arguments, the kernel's first parameters
    in order; constants: its constexpr parameters by name, PDL and ASM excepted, which the target decides; after_all: it
    starts when all before it has ended, so that the kernels behind it may read that before they wait.
    """

    name: str
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    warps: int = 4
    after_all: bool = False

    def run(self, target: Target) -> None:
        """Launch on the current stream of the current GPU, or interpret."""
        if target.asm:
            self._call(target)()
        else:
            allowed = {"PDL": target.pdl, "ASM": target.asm}
            self.kernel[self.grid](*self.arguments, **self.constants, **allowed, num_warps=self.warps)

    def load(self, target: Target) -> None:
        """Have the kernel's machine code on the current GPU; compiled, where nothing on disk has it."""
        self._call(target)

    def _call(self, target: Target) -> "Call":
        calls = self.__dict__.setdefault("_calls", {})
        if target not in calls:
            from kernel_templates.cuda.driver import Call

            calls[target] = Call(self, target)
        return calls[target]
