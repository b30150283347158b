"""The KV cache of many texts in pages, and how a kernel finds a position of a text in it.

A page holds `page` consecutive positions of one text, of every layer. In it lies head h of position p of text s at

    cache + table[s, p // page] + layer * layer_stride + h * head_stride + (p % page) * head_dim

elements, its value `values` elements further. Offsets count from the first element of `cache`, but pages may lie
anywhere in the device's memory: a cache grows page by page, and captured graphs stay valid. A cache in one piece is
paged too: its pages are stretches of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PAGE = 64
"""Positions of a page, unless a cache says otherwise: a multiple of every tile that attention reads."""


@dataclass(frozen=True)
class PagedCache:
    """cache: float16; table: int64 [texts, most pages of one], multiples of 8 elements. An entry that no position
    uses yet points at memory that may be read."""

    cache: Tensor
    table: Tensor
    layer_stride: int
    values: int
    head_stride: int
    page: int = PAGE


def in_one_piece(cache: Tensor, table: Tensor) -> PagedCache:
    """One text's cache, float16 [layers, 2, kv_heads, capacity, head_dim]; table: int64 [1, ceil(capacity / PAGE)],
    filled here."""
    _, _, _, capacity, head_dim = cache.shape
    pages = -(-capacity // PAGE)
    table.copy_((PAGE * head_dim) * torch.arange(pages)[None])
    layer_stride, values, head_stride = cache.stride()[:3]
    return PagedCache(cache, table, layer_stride, values, head_stride)
