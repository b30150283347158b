"""The KV cache of many texts in pages, and how a kernel finds a position of a text in it.

A page holds `page` consecutive positions of one text, of every layer that keeps keys and values. Of a layer, head h of
position p of text s lies at

    cache + table[s, p // page] + layer + h * head_stride + (p % page) * head_dim

elements, its value `values` elements further. Offsets count from the first element of `cache`, but pages may lie
anywhere in the device's memory: a cache grows page by page, and captured graphs stay valid. A cache in one piece is
paged too: its pages are stretches of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE = 64
"""Positions of a page, unless a cache says otherwise: a multiple of every tile that attention reads."""


@dataclass(frozen=True)
class PagedCache:
    """One layer's part of a cache. cache: float16; table: int64 [texts, most pages of one], multiples of 8 elements. An
    entry that no position uses yet points at memory that may be read. layer: where the layer's part of a page begins,
    in elements."""

    cache: Tensor
    table: Tensor
    layer: int
    values: int
    head_stride: int
    page: int = PAGE


def in_one_piece(layers: Sequence[Tensor]) -> tuple[PagedCache, ...]:
    """One text's cache, of each layer float16 [2, kv_heads, capacity, head_dim]."""
    tables: dict[tuple[int, int], Tensor] = {}
    made = []
    for cache in layers:
        _, _, capacity, head_dim = cache.shape
        if (capacity, head_dim) not in tables:
            # On the host: on shapes alone torch imports its compiler for `arange`.
            pages = PAGE * head_dim * torch.arange(-(-capacity // PAGE))
            tables[capacity, head_dim] = pages[None].to(cache.device)
        values, head_stride = cache.stride()[:2]
        made.append(PagedCache(cache, tables[capacity, head_dim], 0, values, head_stride))
    return tuple(made)
