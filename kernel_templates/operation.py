"""What every operation offers, whichever it is: the one interface that the tuner and the engine use.

An operation is a folder with the same files: `problem.py`, `space.py`, `reference.py`, `work.py`, one file a backend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kernel_templates import formats
from kernel_templates.lazy import Tensor
from kernel_templates.problem import Problem
from kernel_templates.space import Config

if TYPE_CHECKING:
    from kernel_templates.cpu.compile import Kernel
    from kernel_templates.cpu.graph import Step
    from kernel_templates.cpu.tiles import Tiles
    from kernel_templates.cuda.launch import Launch
    from kernel_templates.cuda.weights import Planes


@dataclass(frozen=True)
class Weight:
    """A matrix as the file has it. raw: uint8 [rows, bytes of a row]; repeats: where rows repeat, as in random inputs,
    the distinct ones and which of them each row is, int64 [rows]."""

    raw: Tensor
    cols: int
    format: str
    repeats: "tuple[Tensor, Tensor] | None" = None

    @property
    def rows(self) -> int:
        return self.raw.shape[0]


@dataclass(frozen=True)
class Inputs:
    """Everything one call reads and writes, by name: matrices, and flat buffers (float32 unless the operation says)."""

    weights: Mapping[str, Weight]
    buffers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """The least that a call has to do: `bytes` read or written once, `ops` multiplications and additions."""

    bytes: int
    ops: int


def weight_bytes(problem: Problem) -> int:
    """What the matrices of a call take in a file, which is the least that it reads of them."""
    return sum(m.rows * formats.get(m.format).row_bytes(m.cols) for m in problem.matrices)


class CpuTemplate(Protocol):
    """What `<op>/cpu.py` defines, as module functions; `registry.cpu` imports it, and Numba, when it is needed."""

    def compile(self, problem, config: Config, features: frozenset[str]) -> "Kernel":
        """Machine code of the template for one problem and configuration."""

    def scratch_bytes(self, problem, config: Config) -> int:
        """Private memory that a thread needs, in bytes, a multiple of 64."""

    def pack(self, problem, config: Config, weights: Mapping[str, Weight]) -> "tuple[Tiles, ...]":
        """The weights in the order that this configuration reads them."""

    def bind(
        self, problem, config: Config, kernel: "Kernel", packed: "Sequence[Tiles]", buffers: Mapping[str, np.ndarray]
    ) -> "Step":
        """The call, ready for a graph. `buffers` are the operation's own names plus "scratch"."""


class CudaTemplate(Protocol):
    """What `<op>/cuda.py` defines, as module functions; `registry.cuda` imports it, and Triton, when it is needed."""

    PACK_DEPENDS: tuple[str, ...]
    """The parameters that decide how weights are packed, such as ("rows",)."""

    def pack(self, problem, config: Config, weights: Mapping[str, Weight], device: str) -> "tuple[Planes, ...]":
        """The weights on a device, as this configuration reads them."""

    def prepare(self, problem, inputs: Inputs, device: str) -> dict[str, Any]:
        """The operation's inputs as a device's buffers; what is only written holds NaN."""

    def launches(
        self, problem, config: Config, packed: "Sequence[Planes]", buffers: Mapping[str, Any]
    ) -> "list[Launch]":
        """The kernels of one call, in order."""

    def collect(self, problem, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The outputs, named and laid out as the operation's reference gives them."""


@dataclass(frozen=True)
class Operation:
    """One operation: its problems, its reference, its cost.

    Spaces and templates of a backend are found by name (`registry.cpu_space`, `registry.cpu`, `registry.cuda_space`,
    `registry.cuda`), so that neither Numba nor Triton is imported before it is used.
    """

    name: str
    problem: type[Problem]
    inputs: Callable[..., Inputs]
    """(problem, seed) -> fresh random inputs of realistic scale."""
    reference: Callable[..., Mapping[str, np.ndarray]]
    """(problem, inputs) -> the outputs by buffer name, in float64, from the inputs as they are before a call."""
    work: Callable[..., Work]
    tolerance: Callable[..., float]
    """(problem) -> the largest ||out - ref|| / ||ref|| that counts as correct."""
    layer_buffers: tuple[str, ...] = ()
    """Buffers that every layer of a model has for itself, as it has its weights, where a problem has them: the KV
    cache."""
    cpu_tolerance: Callable[..., float] | None = None
    """As `tolerance`, of templates for the CPU, where only those of a GPU round to float16."""

    def tolerance_on(self, backend: str, problem: Problem) -> float:
        """What counts as correct of a backend's templates."""
        return (self.cpu_tolerance if backend == "cpu" and self.cpu_tolerance else self.tolerance)(problem)
