"""What each layer keeps of a text on the CPU, by its mixer: attention's keys and values of every position, or a gated
delta net's states, which are as large for any text."""

from collections.abc import Mapping, Sequence

import numpy as np

from kernel_templates import memory
from kernel_templates.attention import cache
from kernel_templates.gated_delta.problem import GatedDelta
from model.layer_sizes import LayerSizes

State = dict[str, np.ndarray]
"""Of one layer, by the names that links have for its buffers: "keys" and "values" as of `attention.cache`, or
"conv_state" and "state" as of `gated_delta.reference`, of one text."""


def allocate(layers: Sequence[LayerSizes], positions: int) -> list[State]:
    """Empty, for at least so many positions; memory comes with the positions that are written. Layers that read
    another's keys and values have the same arrays."""
    made: list[State] = []
    for s in layers:
        own = made[s.cache_of] if s.cache_of is not None else _states(s.delta) if s.delta else _cache(s, positions)
        made.append(own)
    return made


def size(layers: Sequence[LayerSizes], positions: int) -> int:
    """Bytes that a text takes of which so many positions are written."""
    shapes = [shape for s in layers if s.delta for shape in _shapes(s.delta)]
    cached = sum(cache.size(s.own_kv_heads, s.head_dim, positions) for s in layers if not s.delta)
    return cached + sum(4 * int(np.prod(shape)) for shape in shapes)


def _cache(s: LayerSizes, positions: int) -> State:
    return dict(zip(("keys", "values"), cache.allocate(s.kv_heads, s.head_dim, positions), strict=True))


def _shapes(delta: GatedDelta) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (delta.kernel, delta.channels), (delta.heads, delta.head_dim, delta.head_dim)


def _states(delta: GatedDelta) -> State:
    """As they come: a text's first position reads neither."""
    made = [memory.empty(shape, np.float32) for shape in _shapes(delta)]
    return dict(zip(("conv_state", "state"), made, strict=True))


class Mark:
    """Where a text can go back to: a copy of the states that its layers had after `at` tokens, 0 for none."""

    def __init__(self, layers: Sequence[Mapping[str, np.ndarray]]) -> None:
        """layers: what each keeps of the text."""
        self._live = [kept[name] for kept in layers if "state" in kept for name in ("conv_state", "state")]
        self._copies: list[np.ndarray] = []
        self.at = 0

    def set(self, at: int) -> None:
        self.at = 0  # until all are copied
        self._copies = self._copies or [memory.empty(live.shape, np.float32) for live in self._live]
        for copy, live in zip(self._copies, self._live, strict=True):
            copy[:] = live
        self.at = at

    def go_back(self) -> None:
        for copy, live in zip(self._copies, self._live, strict=True):
            live[:] = copy
