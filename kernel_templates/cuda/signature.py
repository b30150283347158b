"""What the arguments of a launch make of its kernel: Triton compiles another one for other types, for pointers and
integers that divide by 16, and for an integer that is 1.

The rules are those of Triton's own launcher (`native_specialize_impl` in its C++ code); tests hold both together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Launch, Target

POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.float64: "*fp64", torch.uint32: "*u32",
    torch.uint64: "*u64",
}  # fmt: skip
CONSTANT = "constexpr"


@dataclass(frozen=True)
class Signature:
    """types: of every parameter by its name, CONSTANT for one that is compiled in; constants: the values of those;
    aligned: numbers of the parameters whose values divide by 16; passed: of each value that a launch passes, its number
    among the launch's arguments and its type."""

    types: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: tuple[int, ...]
    passed: tuple[tuple[int, str], ...]

    @property
    def key(self) -> tuple:
        """What the kernel's code depends on, to compare within a process: hashable, and 1 is another constant than
        True."""
        values = tuple(self.constants.values())
        return tuple(self.types.values()), tuple(self.constants), values, tuple(map(type, values)), self.aligned

    @property
    def text(self) -> str:
        """The same for names of files."""
        constants = sorted((name, repr(value)) for name, value in self.constants.items())
        return repr((tuple(self.types.items()), constants, self.aligned))


def of(launch: "Launch", target: "Target") -> Signature:
    """Tensors may be torch's "meta" ones. Raises KeyError for a tensor of a type that no kernel takes."""
    constants = {**launch.constants, "PDL": target.pdl, "ASM": target.asm}
    types: dict[str, str] = {}
    aligned, passed = [], []
    runtime = enumerate(launch.arguments)
    for parameter in launch.kernel.params:
        name = parameter.name
        if name in constants:
            types[name] = CONSTANT
            continue
        (i, value), special = next(runtime), not parameter.do_not_specialize
        types[name] = kind = _kind(value, special)
        if kind == CONSTANT:
            constants[name] = value
            continue
        passed.append((i, kind))
        if special and _divides(value, kind):
            aligned.append(parameter.num)
    return Signature(types, constants, tuple(aligned), tuple(passed))


def _kind(value: Any, special: bool) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if value is None:
        return CONSTANT
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, float):
        return "fp32"
    if special and value == 1:
        return CONSTANT
    if -(1 << 31) <= value < 1 << 31:
        return "i32"
    return "i64" if value < 1 << 63 else "u64"


def _divides(value: Any, kind: str) -> bool:
    if kind.startswith("*"):
        return value.data_ptr() % 16 == 0
    return kind in ("i32", "i64", "u64") and value % 16 == 0
