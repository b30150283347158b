"""The KV cache of many texts in pages, and how a kernel finds a position of a text in it.

A page holds `page` consecutive positions of one text, of every layer that keeps keys and values. Of a layer, head h of
position p of text s lies at

    cache + table[s, p // page] + layer + h * head_stride + (p % page) * head_dim

elements, its value `values` elements further. Offsets count from the first element of `cache`, but pages may lie
anywhere in the device's memory: a cache grows page by page, and captured graphs stay valid. A cache in one piece is
paged too: its pages are stretches of it.

A cache of 8 bits (`quantized_cache`) has beside it, wherever a page lies, one float32 for each position and head:

    scales + table[s, p // page] // per_scale + scale_layer + h * head_stride // head_dim + p % page

its value's values // head_dim further.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE = 64
"""Positions of a page, unless a cache says otherwise: a multiple of every tile that attention reads."""


@dataclass(frozen=True)
class PagedCache:
    """One layer's part of a cache. cache: float16, or int8; table: int64 [texts, most pages of one], multiples of 16
    bytes. An entry that no position uses yet points at memory that may be read. layer: where the layer's part of a page
    begins, in elements; scales: float32, None of a cache in float16."""

    cache: Tensor
    table: Tensor
    layer: int
    values: int
    head_stride: int
    page: int = PAGE
    scales: Tensor | None = None
    scale_layer: int | None = None
    per_scale: int = 1


def in_one_piece(layers: Sequence[Tensor], scales: Sequence[Tensor | None] | None = None) -> tuple[PagedCache, ...]:
    """One text's cache, of each layer [2, kv_heads, capacity, head_dim], float16, or int8 with float32 scales [2,
    kv_heads, capacity]."""
    tables: dict[tuple[int, int], Tensor] = {}
    made = []
    for cache, own in zip(layers, scales or [None] * len(layers), strict=True):
        _, _, capacity, head_dim = cache.shape
        if (capacity, head_dim) not in tables:
            # On the host: on shapes alone torch imports its compiler for `arange`.
            pages = PAGE * head_dim * torch.arange(-(-capacity // PAGE))
            tables[capacity, head_dim] = pages[None].to(cache.device)
        table = tables[capacity, head_dim]
        made.append(_of_layer(cache, table, own))
    return tuple(made)


def _of_layer(cache: Tensor, table: Tensor, scales: Tensor | None) -> PagedCache:
    values, head_stride = cache.stride()[:2]
    if scales is None:
        return PagedCache(cache, table, 0, values, head_stride)
    return PagedCache(cache, table, 0, values, head_stride, scales=scales, scale_layer=0, per_scale=cache.shape[-1])
