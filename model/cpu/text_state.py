"""What each layer keeps of a text on the CPU, by its mixer: attention's keys and values of every position."""

from collections.abc import Sequence

import numpy as np

from kernel_templates.attention import cache
from model.layer_sizes import LayerSizes

State = dict[str, np.ndarray]
"""Of one layer, by the names that links have for its buffers: "keys" and "values" as of `attention.cache`."""


def allocate(layers: Sequence[LayerSizes], positions: int) -> list[State]:
    """Empty, for at least so many positions; memory comes with the positions that are written. Layers that read
    another's keys and values have the same arrays."""
    made: list[State] = []
    for s in layers:
        if s.cache_of is not None:
            made.append(made[s.cache_of])
        else:
            made.append(dict(zip(("keys", "values"), cache.allocate(s.kv_heads, s.head_dim, positions), strict=True)))
    return made


def size(layers: Sequence[LayerSizes], positions: int) -> int:
    """Bytes that a text takes of which so many positions are written."""
    return sum(cache.size(s.own_kv_heads, s.head_dim, positions) for s in layers)
