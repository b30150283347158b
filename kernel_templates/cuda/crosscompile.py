"""Compile a launch for a GPU that need not be here, and read what came out: registers, spills, PTX, SASS."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernel_templates.cuda.launch import Launch, Target

_POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.float64: "*fp64", torch.uint32: "*u32",
    torch.uint64: "*u64",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """ptx: text; cubin: machine code; name: the kernel's symbol; shared: bytes of shared memory."""

    name: str
    ptx: str
    cubin: bytes
    shared: int

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


def capability_target(capability: int) -> Target:
    """PDL exists from Hopper (90) on."""
    return Target(pdl=capability >= 90, asm=True)


def cross_compile(launch: Launch, capability: int) -> Compiled:
    """Machine code for compute capability `capability`, e.g. 90, specialized as a call with these arguments would be.

    Raises what Triton's compiler raises.
    """
    target = capability_target(capability)
    pdl = target.pdl and not launch.after_all
    names = launch.kernel.arg_names
    constants = {**launch.constants, "PDL": pdl, "ASM": target.asm}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list] = {}
    runtime = iter(launch.arguments)
    for position, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = next(runtime)
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            signature[name], aligned = "fp32", False
        elif value is None or value == 1:  # as the launcher does: they are compiled in
            signature[name], aligned = "constexpr", False
            constants[name] = value
        else:
            signature[name], aligned = "i32" if abs(value) < 1 << 31 else "i64", value % 16 == 0
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps} | ({"launch_pdl": True} if pdl else {})
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Compiled(made.metadata.name, made.asm["ptx"], made.asm["cubin"], made.metadata.shared)


def _tool(name: str, option: str, cubin: bytes) -> str:
    """Output of one of the binary tools that Triton's wheel carries, on a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(tool), option, file.name], capture_output=True, text=True, check=True).stdout
