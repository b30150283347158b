"""What every operation offers, whichever it is: the one interface that the tuner and the engine use.

An operation is a folder with the same files: `problem.py`, `space.py`, `reference.py`, `work.py`, one file a backend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Step
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space


@dataclass(frozen=True)
class Weight:
    """A matrix as the file has it. raw: uint8 [rows, bytes of a row]."""

    raw: torch.Tensor
    cols: int
    format: str

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


class CpuTemplate(Protocol):
    """What `<op>/cpu.py` defines, as module functions."""

    def compile(self, problem, config: Config, features: frozenset[str]) -> Kernel:
        """Machine code of the template for one problem and configuration."""

    def scratch_bytes(self, problem, config: Config) -> int:
        """Private memory that a thread needs, in bytes, a multiple of 64."""

    def pack(self, problem, config: Config, weights: Mapping[str, Weight]) -> tuple[Tiles, ...]:
        """The weights in the order that this configuration reads them."""

    def bind(
        self, problem, config: Config, kernel: Kernel, packed: Sequence[Tiles], buffers: Mapping[str, np.ndarray]
    ) -> Step:
        """The call, ready for a graph. `buffers` are the operation's own names plus "scratch"."""


@dataclass(frozen=True)
class Operation:
    """One operation: its problems, its spaces, its truth, its cost, and its templates."""

    name: str
    problem: type[Problem]
    cpu_space: Callable[..., Space]
    inputs: Callable[..., Inputs]
    """(problem, seed) -> fresh random inputs of realistic scale."""
    reference: Callable[..., Mapping[str, np.ndarray]]
    """(problem, inputs) -> the outputs by buffer name, in float64, from the inputs as they are before a call."""
    work: Callable[..., Work]
    tolerance: Callable[..., float]
    """(problem) -> the largest ||out - ref|| / ||ref|| that counts as correct."""
    cpu: CpuTemplate
