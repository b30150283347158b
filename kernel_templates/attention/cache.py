"""The KV cache: its formats, where keys and values lie, and how whole stretches of them are written and read.

Keys are interleaved by tiles of 64 positions, [kv_heads, capacity/64, head_dim, 64], so that one vector holds the same
dimension of consecutive positions and scores need no sum across lanes. Values stay [kv_heads, capacity, head_dim].

"f16": float16; the largest key Qwen3's norms allow is 96.5 * sqrt(128) = 1092, far inside its range. "q8_0", called as
llama.cpp's users know it: a head of one position is int8 times one float32 scale, its largest element / 127. (There a
block has 32 elements and a float16 scale, 8.5 bits an element; here a head of 64 elements takes as many, a longer one
fewer. A scale can leave the sums over a head's elements, and docs/log.md has what either costs in accuracy.) On a
processor, which computes no kernel with it, such a cache is float32: the numbers that the bytes stand for.
"""

import numpy as np

from kernel_templates import memory
from kernel_templates.lazy import Tensor, torch

TILE = 64
F16, Q8_0 = "f16", "q8_0"
FORMATS = (F16, Q8_0)
LARGEST = 127
"""Of the integers that elements become."""


def allocate(kv_heads: int, head_dim: int, positions: int, form: str = F16) -> tuple[np.ndarray, np.ndarray]:
    """Zeroed keys and values for at least `positions` positions, in memory once they are written."""
    tiles, dtype = -(-positions // TILE), np.float16 if form == F16 else np.float32
    keys = memory.unwritten((kv_heads, tiles, head_dim, TILE), dtype)
    return keys, memory.unwritten((kv_heads, tiles * TILE, head_dim), dtype)


def size(kv_heads: int, head_dim: int, positions: int) -> int:
    """Bytes that `positions` positions take in float16, keys and values together: whole tiles."""
    return 2 * kv_heads * -(-positions // TILE) * TILE * head_bytes(head_dim, F16)


def head_bytes(head_dim: int, form: str) -> int:
    """Bytes of one position of one head, its key or its value."""
    return 2 * head_dim if form == F16 else head_dim + 4


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Heads float [..., head_dim] as "q8_0" has them: int8 of the same shape, and float32 scales [...]."""
    x = x.float()
    largest = x.abs().amax(-1)
    inverse = torch.where(largest > 0, LARGEST / largest, 0.0)
    return torch.round(x * inverse[..., None]).to(torch.int8), largest / LARGEST


def stored(x: Tensor, form: str) -> Tensor:
    """What a cache gives back for heads [..., head_dim]: float16, or float32."""
    if form == F16:
        return x.to(torch.float16)
    whole, scale = quantized(x)
    return whole * scale[..., None]


def as_stored(keys: np.ndarray, values: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of the same shapes with what a cache gives back for them."""
    k, v = torch.from_numpy(keys).transpose(-1, -2), torch.from_numpy(values)
    return stored(k, form).transpose(-1, -2).contiguous().numpy(), stored(v, form).numpy()


def write(keys: np.ndarray, values: np.ndarray, k: Tensor, v: Tensor, first: int) -> None:
    """Put k, v [positions, kv_heads, head_dim] at positions first, first + 1, ..."""
    count, form = k.shape[0], F16 if values.dtype == np.float16 else Q8_0
    values[:, first : first + count] = stored(v, form).transpose(0, 1).numpy()
    at = torch.arange(first, first + count)
    target = torch.from_numpy(keys)
    target[:, at // TILE, :, at % TILE] = stored(k, form)


def read(keys: np.ndarray, values: np.ndarray, end: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Positions first..end - 1 as float32 [kv_heads, end - first, head_dim], copied."""
    kv_heads, _, head_dim, _ = keys.shape
    tile, after = first // TILE, -(-end // TILE)
    tiles = torch.from_numpy(keys[:, tile:after]).permute(0, 1, 3, 2)
    k = tiles.reshape(kv_heads, (after - tile) * TILE, head_dim)[:, first - tile * TILE : end - tile * TILE]
    return k.float(), torch.from_numpy(values[:, first:end]).float()
