"""The KV cache: where keys and values lie, and how whole stretches of them are written and read.

Keys are interleaved by tiles of 64 positions, [kv_heads, capacity/64, head_dim, 64], so that one vector holds the same
dimension of consecutive positions and scores need no sum across lanes. Values stay [kv_heads, capacity, head_dim].
Both float16: the largest key Qwen3's norms allow is 96.5 * sqrt(128) = 1092, far inside its range.
"""

import numpy as np

from kernel_templates import memory
from kernel_templates.lazy import Tensor, torch

TILE = 64


def allocate(kv_heads: int, head_dim: int, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeroed keys and values for at least `positions` positions, in memory once they are written."""
    tiles = -(-positions // TILE)
    keys = memory.unwritten((kv_heads, tiles, head_dim, TILE), np.float16)
    return keys, memory.unwritten((kv_heads, tiles * TILE, head_dim), np.float16)


def size(kv_heads: int, head_dim: int, positions: int) -> int:
    """Bytes that `positions` positions take in memory, keys and values together: whole tiles."""
    return 2 * 2 * kv_heads * -(-positions // TILE) * TILE * head_dim


def write(keys: np.ndarray, values: np.ndarray, k: Tensor, v: Tensor, first: int) -> None:
    """Put k, v [positions, kv_heads, head_dim] at positions first, first + 1, ..."""
    count = k.shape[0]
    values[:, first : first + count] = v.transpose(0, 1).to(torch.float16).numpy()
    at = torch.arange(first, first + count)
    target = torch.from_numpy(keys)
    target[:, at // TILE, :, at % TILE] = k.to(torch.float16)


def read(keys: np.ndarray, values: np.ndarray, end: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Positions first..end - 1 as float32 [kv_heads, end - first, head_dim], copied."""
    kv_heads, _, head_dim, _ = keys.shape
    tile, after = first // TILE, -(-end // TILE)
    tiles = torch.from_numpy(keys[:, tile:after]).permute(0, 1, 3, 2)
    k = tiles.reshape(kv_heads, (after - tile) * TILE, head_dim)[:, first - tile * TILE : end - tile * TILE]
    return k.float(), torch.from_numpy(values[:, first:end]).float()
