"""The key of one of our kernels in a profiler's report: its name, grid and block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

NEEDED = "autotune__bytes_needed"
"""Metric of our own: bytes that a launch has to read and write at least."""


@dataclass(frozen=True)
class KnownKernel:
    """One launch of one call. kernel: its symbol; grid, block: as the driver is given them; bytes_needed: the least it
    has to read and write; name: what it does in its operation ("gate_up")."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    name: str
    problem: str
    config: Mapping[str, Any]
    role: str | None
    bytes_needed: int

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """The kernel that `dataclasses.asdict` turned into a row, after a way through JSON."""
        return cls(**{**row, "grid": tuple(row["grid"]), "block": tuple(row["block"])})
