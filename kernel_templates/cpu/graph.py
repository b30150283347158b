"""A sequence of kernel calls, bound to its memory once and replayed with one native call: the CPU's CUDA graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.thread_pool import ThreadPool


@dataclass(frozen=True)
class Step:
    """One kernel with the block of int64 arguments it reads. `keep`: arrays the pointers in there lead to."""

    kernel: Kernel
    arguments: np.ndarray
    keep: tuple
    label: str = ""


def step(kernel: Kernel, arguments: Sequence, label: str = "") -> Step:
    """Bind a kernel: each argument is an array (its address is passed, and it is kept alive) or an int."""
    for a in arguments:
        if isinstance(a, np.ndarray) and not a.flags.c_contiguous:
            raise ValueError("a kernel's array argument must be contiguous")
    block = np.array([a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in arguments], np.int64)
    return Step(kernel, block, tuple(a for a in arguments if isinstance(a, np.ndarray)), label)


class Graph:
    """Steps that run in order on a team, each finished before the next begins."""

    def __init__(self, team: ThreadPool, steps: Sequence[Step]):
        self.team, self.steps = team, tuple(steps)
        self._functions = np.array([s.kernel.address for s in steps], np.int64)
        self._arguments = np.array([s.arguments.ctypes.data for s in steps], np.int64)
        self._times = np.zeros(len(steps) + 1, np.int64)

    def replay(self, threads: int | None = None, first: int = 0, end: int | None = None) -> None:
        """Run every step once, or those from `first` up to `end`, on the first `threads` of the team (None: all). The
        results do not depend on it."""
        count = (len(self.steps) if end is None else end) - first
        self.team.run(
            self._functions[first:].ctypes.data, self._arguments[first:].ctypes.data, count, threads=threads
        )  # fmt: skip

    def replay_timed(self) -> np.ndarray:
        """Run every step once; float64 nanoseconds each step took, barrier included."""
        self.team.run(
            self._functions.ctypes.data, self._arguments.ctypes.data, len(self.steps), self._times.ctypes.data
        )
        return np.diff(self._times).astype(np.float64)
