"""What each layer keeps of a text on the CPU, by its mixer: attention's keys and values of every position."""

from collections.abc import Sequence

import numpy as np

from kernel_templates.attention import cache
from model.layer_sizes import LayerSizes

State = dict[str, np.ndarray]
"""Of one layer, by the names that links have for its buffers: "keys" and "values" as of `attention.cache`."""


def allocate(layers: Sequence[LayerSizes], positions: int) -> list[State]:
    """Empty, for at least so many positions; memory comes with the positions that are written."""
    return [
        dict(zip(("keys", "values"), cache.allocate(s.kv_heads, s.head_dim, positions), strict=True)) for s in layers
    ]


def size(layers: Sequence[LayerSizes], positions: int) -> int:
    """Bytes that a text takes of which so many positions are written."""
    return sum(cache.size(s.kv_heads, s.head_dim, positions) for s in layers)
