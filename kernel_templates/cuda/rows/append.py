"""Heads of many tokens before attention: bias, QK-norm and RoPE in float32, keys and values into the pages of a cache.

A norm comes before RoPE and both are linear in the head once its RMS is known (see `heads`). A thread has both elements
of a pair that turns, and of those that do not turn, two that lie as far apart as that makes pairs of all. What all rows
share is loaded as wide and by the same threads as the heads are: nothing goes through shared memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.heads import inverse_rms, rotate
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.cuda.quantized_cache import quantize_pairs

ELEMENTS = 1024
"""Of the heads of a program: four pairs a thread."""


@triton.jit
def _load_pair(pointer, first, second, mask):
    return tl.load(pointer + first, mask=mask, other=0.0), tl.load(pointer + second, mask=mask, other=0.0)


@triton.jit
def append_rows(
    qkv, q, positions, sequences, rope, bias, q_norm, k_norm, eps, cache, table, pages, layer, values, head_stride,
    scales, scale_layer,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, PAGE: tl.constexpr,
    QK_NORM: tl.constexpr, V_NORM: tl.constexpr, BIAS: tl.constexpr, GROUP: tl.constexpr, DIMS: tl.constexpr,
    QUERY: tl.constexpr, PER_SCALE: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, i): heads from i * GROUP on of row r of qkv, the queries', the keys' and the values' in that order.
    DIMS: pairs of a head, or the next power of two. QUERY: elements from one query to the next.

    layer, values, head_stride, scales, scale_layer, PER_SCALE: as in `pages`; pages: of one text in the table.
    """
    if PDL:
        gdc_launch_dependents()
    TOTAL: tl.constexpr = HEADS + 2 * KV_HEADS
    ROW: tl.constexpr = HEADS * QUERY + 2 * KV_HEADS * HEAD_DIM
    TURNING: tl.constexpr = ROPE_DIM // 2  # pairs
    STILL: tl.constexpr = HEAD_DIM // 2 - TURNING
    r = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    pair = tl.broadcast_to(tl.arange(0, DIMS)[None, :], (GROUP, DIMS))
    first, second = pair, pair + TURNING
    if STILL > 0:
        first = tl.where(pair < TURNING, pair, TURNING + pair)
        second = first + tl.where(pair < TURNING, TURNING, STILL)
    inside = (head < TOTAL) & (pair < HEAD_DIM // 2)
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    kv = tl.where(is_value, head - HEADS - KV_HEADS, head - HEADS)
    start = head * HEAD_DIM
    if QUERY != HEAD_DIM:
        start += tl.minimum(head, HEADS) * (QUERY - HEAD_DIM)
    if QK_NORM:
        weight_a, weight_b = _load_pair(tl.where(is_query, q_norm, k_norm), first, second, inside)
    if BIAS:
        bias_a, bias_b = _load_pair(bias + start, first, second, inside)
    if PDL:
        gdc_wait()
    position = tl.load(positions + r)
    text = tl.load(sequences + r).to(tl.int64)
    a, b = _load_pair(qkv + r * ROW + start, first, second, inside)
    cached = tl.where(position >= 0, HEADS, TOTAL)  # the first head that goes into the cache
    position = tl.maximum(position, 0)
    page = tl.load(table + text * pages + position // PAGE)
    turns = rope + position.to(tl.int64) * ROPE_DIM
    turning = inside & (pair < TURNING)
    cos = tl.load(turns + pair, mask=turning, other=1.0)
    sin = tl.load(turns + TURNING + pair, mask=turning, other=0.0)
    if BIAS:
        a, b = a + bias_a, b + bias_b
    x, y = a, b
    if QK_NORM or V_NORM:
        inverse = inverse_rms(tl.sum(a * a + b * b, 1, keep_dims=True), eps, HEAD_DIM)
    if QK_NORM:
        x, y = a * weight_a * inverse, b * weight_b * inverse
    if V_NORM:
        a, b = a * inverse, b * inverse
    x, y = rotate(x, y, cos, -sin), rotate(y, x, cos, sin)
    x, y = tl.where(is_value, a, x), tl.where(is_value, b, y)
    if scales is not None:
        whole_x, whole_y, scale = quantize_pairs(x, y, 1)
    x, y = to_half(x), to_half(y)
    target = q + r * (HEADS * HEAD_DIM) + head * HEAD_DIM
    tl.store(target + first, x, mask=inside & is_query)
    tl.store(target + second, y, mask=inside & is_query)
    place = tl.multiple_of(page, 8) + layer + position % PAGE * HEAD_DIM
    target = cache + place + tl.where(is_value, values, 0) + kv.to(tl.int64) * head_stride
    if scales is None:
        tl.store(target + first, x, mask=inside & (head >= cached))
        tl.store(target + second, y, mask=inside & (head >= cached))
    else:
        tl.store(target + first, whole_x, mask=inside & (head >= cached))
        tl.store(target + second, whole_y, mask=inside & (head >= cached))
        of_head = tl.where(is_value, values, 0) + kv.to(tl.int64) * head_stride
        at = page // PER_SCALE + scale_layer + of_head // HEAD_DIM + position % PAGE
        tl.store(scales + at, scale, mask=(head >= cached) & (head < TOTAL))


@dataclass(frozen=True)
class Heads:
    """How a layer's heads are made; without kv_heads there are only queries. bias: float32 [elements of a row], or
    None; norms: of queries and of keys, float32 [head_dim] each, or None; rope: float32 [capacity, rope_dim], cosines
    then sines; eps: the norms'; output_gate: whether each query is followed by as many elements of a gate, which are
    left alone; v_norm: values are divided by their RMS."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: torch.Tensor
    eps: float
    bias: torch.Tensor | None = None
    norms: tuple[torch.Tensor, torch.Tensor] | None = None
    output_gate: bool = False
    v_norm: bool = False

    @property
    def query_size(self) -> int:
        """Elements from one query to the next: a gate may lie between them."""
        return self.head_dim * (1 + self.output_gate)


def launch(how: Heads, rows: Mapping[str, torch.Tensor], cache: PagedCache) -> Launch:
    """Reads, of `rows`, "qkv" float32 [rows, heads query_size + 2 kv_heads head_dim], "positions" and "sequences" int32
    [rows]; writes "q" float16 [rows, heads, head_dim], and keys and values into the layer's part of pages. A row at
    position -1 leaves the cache alone, and its q is of no use."""
    qkv = rows["qkv"]
    dims = triton.next_power_of_2(how.head_dim // 2)
    total = how.heads + 2 * how.kv_heads
    group = max(min(ELEMENTS // (2 * dims), triton.next_power_of_2(total)), 1)
    norms = how.norms or (qkv, qkv)  # which the kernel never reads
    constants: dict[str, Any] = {
        "HEADS": how.heads,
        "KV_HEADS": how.kv_heads,
        "HEAD_DIM": how.head_dim,
        "ROPE_DIM": how.rope.shape[1],
        "PAGE": cache.page,
        "QK_NORM": how.norms is not None,
        "V_NORM": how.v_norm,
        "BIAS": how.bias is not None,
        "GROUP": group,
        "DIMS": dims,
        "QUERY": how.query_size,
        "PER_SCALE": cache.per_scale,
    }
    arguments = (
        qkv, rows["q"], rows["positions"], rows["sequences"], how.rope, qkv if how.bias is None else how.bias, *norms,
        how.eps, cache.cache, cache.table, cache.table.shape[1], cache.layer, cache.values,
        cache.head_stride, cache.scales, cache.scale_layer,
    )  # fmt: skip
    return Launch("append", append_rows, (len(qkv), triton.cdiv(total, group)), arguments, constants)
