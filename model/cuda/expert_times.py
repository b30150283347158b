"""Measures what a layer's experts cost a token in the GPU's memory and with the host, and what copying them costs.

The real programs are timed, on the model's own weights and for tokens that choose other experts each time, so that none
are read again from a cache. The way to the host and back, and the stop of the device, are in the host's time.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kernel_templates.cuda.rows import take_row
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.moe import cuda as moe
from kernel_templates.moe import rows as moe_rows
from kernel_templates.moe.problem import Moe
from model.cuda.execution import Executor
from model.cuda.host_experts import MOST, NEVER, HostExperts, HostMixture
from model.problems import ACTIVATION

TOKENS = 16
"""In one program."""
REPEATS = 3
"""Of which the fastest counts: other work makes a run slower, never faster."""


class ExpertTimer:
    """On one device, for a model's `hidden` elements."""

    def __init__(self, executor: Executor, hidden: int) -> None:
        self._executor, device = executor, executor.device
        drawn = torch.randn(MOST, hidden, generator=torch.Generator().manual_seed(0))
        self._rows = drawn.to(device)
        self._positions = torch.arange(MOST, dtype=torch.int32, device=device)
        self._x, self._branch, self._shared = (Vector.allocate(hidden, device) for _ in range(3))

    def on_gpu(
        self, problem: Moe, config: Mapping[str, Any], packed: tuple[Planes, ...], vectors: dict[str, Any]
    ) -> float:
        """Seconds of a token; vectors: those that the operation reads, by its names, and "eps"."""
        device = self._executor.device
        bound = {
            **vectors, **moe_rows.allocate([problem], 1, device), "x": self._x, "branch": self._branch,
            "shared_branch": self._shared,
            "gated": Vector.allocate(problem.gated, device), "next_norm": vectors["norm"],
        }  # fmt: skip
        return self._token(vectors["norm"], lambda: moe.launches(problem, config, packed, bound))

    def on_host(self, mixture: HostMixture, norm: Tensor) -> float:
        """Seconds of a token whose next reader norms with `norm`."""
        return self._token(norm, lambda: mixture.token(self._x, norm))

    def copy(self, host: HostExperts, layer: int) -> float:
        """Seconds until a layer's experts are on the device."""

        def fetch() -> None:
            host.forget_copies()
            host.fetch(layer)

        return self._fastest(fetch)

    def together_from(self, host: HostExperts, layer: int) -> float:
        """Rows from which on the host computes them together faster than one by one."""
        problem = host.experts.problems[layer]
        for size in self._sizes:
            seconds = {}
            for together_from in (NEVER, 0):
                host.experts.together_from[problem] = together_from
                seconds[together_from] = self._rows_s(host, layer, size)
            if seconds[0] < seconds[NEVER]:
                return size
        return NEVER

    def stream_from(self, host: HostExperts, layer: int, copy_s: float) -> float:
        """Rows from which on copying experts takes no longer than computing with them on the host."""
        return next((size for size in self._sizes if self._rows_s(host, layer, size) >= copy_s), NEVER)

    @property
    def _sizes(self) -> list[int]:
        """Of passes that the host may compute."""
        return [2**bit for bit in range(1, MOST.bit_length())]

    def _rows_s(self, host: HostExperts, layer: int, size: int) -> float:
        """Seconds of so many rows on the host, the way there and back included."""
        x, positions = self._rows[:size].clone(), self._positions[:size]
        return self._fastest(functools.partial(host.rows, layer, x, positions))

    def _token(self, norm: Tensor, launches: Callable[[], list[Any]]) -> float:
        made: list[Any] = []
        for row in self._rows[:TOKENS]:
            made += [take_row.launch(row, norm, self._x, ACTIVATION), *launches()]
        return self._fastest(self._executor.program(made, "experts")) / TOKENS

    def _fastest(self, run: Callable[[], None]) -> float:
        """After a run that compiles what it needs."""
        return min([self._timed(run) for _ in range(1 + REPEATS)][1:])

    def _timed(self, run: Callable[[], None]) -> float:
        start = time.perf_counter()
        run()
        if self._executor.device.type == "cuda":
            torch.cuda.synchronize(self._executor.device)
        return time.perf_counter() - start
