"""Compile a launch for a GPU that need not be here, and read what came out: registers, spills, PTX, SASS."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.errors import PTXASError

from kernel_templates import collector
from kernel_templates.cuda import sass, signature
from kernel_templates.cuda.launch import Launch, Target, capability_target
from kernel_templates.cuda.lazy_triton import triton


@dataclass(frozen=True)
class Compiled:
    """ptx: text; cubin: machine code; name: the kernel's symbol; shared: bytes of shared memory of a program; warps: of
    a program."""

    name: str
    ptx: str
    cubin: bytes
    shared: int
    warps: int

    @cached_property
    def resources(self) -> dict[str, int]:
        """What cuobjdump says: REG (a thread), STACK and LOCAL bytes (spills), SHARED bytes."""
        text = _tool("cuobjdump", "--dump-resource-usage", self.cubin)
        line = next(t for t in text.splitlines() if "REG:" in t)
        return {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", line)}

    @property
    def registers(self) -> int:
        return self.resources["REG"]

    @property
    def spills(self) -> int:
        """Bytes of local memory a thread uses; 0 when everything fits in registers."""
        return self.resources["STACK"] + self.resources["LOCAL"]

    @cached_property
    def sass(self) -> str:
        return _tool("cuobjdump", "--dump-sass", self.cubin)


def cross_compile(launch: Launch, capability: int) -> Compiled:
    """Machine code for compute capability `capability`, e.g. 90, specialized as a call with these arguments would be.

    Raises what Triton's compiler raises, PTXASError also of code that cannot be right (`sass`).
    """
    return compile_launch(launch, capability_target(capability), capability)


@triton.jit
def _copy(x, y, PDL: tl.constexpr, ASM: tl.constexpr):
    tl.store(y, tl.load(x))


def warm_up() -> None:
    """Have this process import and initialize what compiling takes, by a kernel that takes a tenth of a second."""
    one = torch.empty(1, device="meta")
    cross_compile(Launch("copy", _copy, (1,), (one, one), {}), 80)


def compile_launch(launch: Launch, target: Target, capability: int) -> Compiled:
    """As `cross_compile`, with what `target` allows.

    These are the steps of `triton.compile` without its cache on disk, whose keys take a second: they hold a digest over
    Triton's own library of 400 MB, and one over the syntax tree of everything that a kernel calls."""
    # The front end makes some 100,000 objects a kernel, which the collector would go through, and through all that was
    # there before, a hundred times: a tenth to a fifth of a compilation (docs/log.md).
    with collector.paused():
        return _compiled(launch, target, capability)


def _compiled(launch: Launch, target: Target, capability: int) -> Compiled:
    called = signature.of(launch, target)
    attributes: dict[tuple[int, ...], list] = {(i,): [["tt.divisibility", 16]] for i in called.aligned}
    source = ASTSource(launch.kernel, dict(called.types), constexprs=dict(called.constants), attrs=attributes)
    chip = GPUTarget("cuda", capability, 32)
    backend = make_backend(chip)
    # Checks of integer overflow, without debugging, are arithmetic of 64 bits that nothing reads: a third of the front
    # end's time, and gone from the machine code either way.
    wanted = {"num_warps": launch.warps, "sanitize_overflow": False}
    options = backend.parse_options(wanted | ({"launch_pdl": True} if target.pdl else {}))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Callable] = {}
    backend.add_stages(stages, options, source.language)
    code = source.make_ir(chip, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
    made: dict[str, Any] = {}
    metadata = {**options.__dict__, "target": chip}
    for name, lower in stages.items():
        made[name] = code = lower(code, metadata)
    if metadata["global_scratch_size"] or metadata["profile_scratch_size"]:
        raise NotImplementedError(f"{launch.name} needs scratch memory of Triton's own, which is not allocated")
    found = Compiled(metadata["name"], made["ptx"], made["cubin"], metadata["shared"], metadata["num_warps"])
    if "wgmma" in found.ptx and (wrong := sass.unwritten(found.sass)):
        raise PTXASError(f"{launch.name} would read registers that it never writes: {wrong}")
    return found


def _tool(name: str, option: str, cubin: bytes) -> str:
    """Output of one of the binary tools that Triton's wheel carries, on a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(tool), option, file.name], capture_output=True, text=True, check=True).stdout
