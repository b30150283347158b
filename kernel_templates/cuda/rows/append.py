"""Heads of many tokens before attention: bias, QK-norm and RoPE in float32, keys and values into the pages of a cache.

A norm comes before RoPE and both are linear in the head once its RMS is known (see `heads`): an element needs itself
and its partner, each loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.heads import inverse_rms, rotate, rotation
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.cuda.rows.half import to_half

ELEMENTS = 1024
"""Of the heads of a program: 8 a thread."""


@triton.jit
def append_rows(
    qkv, q, positions, sequences, rope, bias, q_norm, k_norm, eps, cache, table, pages, layer, values, head_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, PAGE: tl.constexpr,
    QK_NORM: tl.constexpr, BIAS: tl.constexpr, GROUP: tl.constexpr, DIMS: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, i): heads from i * GROUP on of row r of qkv, the queries', the keys' and the values' in that order.

    layer, values, head_stride: elements, as in `pages`; pages: of one text in the table.
    """
    if PDL:
        gdc_launch_dependents()
    TOTAL: tl.constexpr = HEADS + 2 * KV_HEADS
    r = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    dim = tl.arange(0, DIMS)[None, :]
    inside = (head < TOTAL) & (dim < HEAD_DIM)
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    kv = tl.where(is_value, head - HEADS - KV_HEADS, head - HEADS)
    partner = (dim + ROPE_DIM // 2) % ROPE_DIM
    at = head * HEAD_DIM + dim
    partner_at = head * HEAD_DIM + partner
    if QK_NORM:
        real = dim < HEAD_DIM
        of_query, of_key = tl.load(q_norm + dim, mask=real, other=0.0), tl.load(k_norm + dim, mask=real, other=0.0)
        weight = tl.where(is_query, of_query, of_key)
        partner_weight = tl.where(is_query, tl.load(q_norm + partner), tl.load(k_norm + partner))
    if PDL:
        gdc_wait()
    position = tl.load(positions + r)
    cached = tl.where(position >= 0, HEADS, TOTAL)  # the first head that goes into the cache
    position = tl.maximum(position, 0)
    page = tl.load(table + tl.load(sequences + r).to(tl.int64) * pages + position // PAGE)
    own, other = rotation(rope, rope + position.to(tl.int64) * ROPE_DIM, dim, 1.0, HEAD_DIM, ROPE_DIM, False)
    row = qkv + r * (TOTAL * HEAD_DIM)
    x = tl.load(row + at, mask=inside, other=0.0)
    y = tl.load(row + partner_at, mask=inside, other=0.0)
    if BIAS:
        x += tl.load(bias + at, mask=inside, other=0.0)
        y += tl.load(bias + partner_at, mask=inside, other=0.0)
    if QK_NORM:
        turned = rotate(x * weight, y * partner_weight, own, other)
        turned = turned * inverse_rms(tl.sum(x * x, 1, keep_dims=True), eps, HEAD_DIM)
    else:
        turned = rotate(x, y, own, other)
    out = to_half(tl.where(is_value, x, turned))
    tl.store(q + r * (HEADS * HEAD_DIM) + at, out, mask=inside & is_query)
    place = tl.multiple_of(page, 8) + layer + position % PAGE * HEAD_DIM
    target = cache + place + tl.where(is_value, values, 0) + kv.to(tl.int64) * head_stride + dim
    tl.store(target, out, mask=inside & (head >= cached))


@dataclass(frozen=True)
class Heads:
    """How a layer's heads are made. bias: float32 [(heads + 2 kv_heads) head_dim], or None; norms: of queries and of
    keys, float32 [head_dim] each, or None; rope: float32 [capacity, rope_dim], cosines then sines; eps: the norms'."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: torch.Tensor
    eps: float
    bias: torch.Tensor | None = None
    norms: tuple[torch.Tensor, torch.Tensor] | None = None


def launch(how: Heads, rows: Mapping[str, torch.Tensor], cache: PagedCache, layer: int) -> Launch:
    """Reads, of `rows`, "qkv" float32 [rows, (heads + 2 kv_heads) head_dim], "positions" and "sequences" int32 [rows];
    writes "q" float16 [rows, heads, head_dim], and keys and values into the cache's pages of `layer`. A row at
    position -1 leaves the cache alone, and its q is of no use."""
    qkv = rows["qkv"]
    dims = triton.next_power_of_2(how.head_dim)
    total = how.heads + 2 * how.kv_heads
    group = max(min(ELEMENTS // dims, triton.next_power_of_2(total)), 1)
    norms = how.norms or (qkv, qkv)  # which the kernel never reads
    constants: dict[str, Any] = {
        "HEADS": how.heads,
        "KV_HEADS": how.kv_heads,
        "HEAD_DIM": how.head_dim,
        "ROPE_DIM": how.rope.shape[1],
        "PAGE": cache.page,
        "QK_NORM": how.norms is not None,
        "BIAS": how.bias is not None,
        "GROUP": group,
        "DIMS": dims,
    }
    arguments = (
        qkv, rows["q"], rows["positions"], rows["sequences"], how.rope, qkv if how.bias is None else how.bias, *norms,
        how.eps, cache.cache, cache.table, cache.table.shape[1], layer * cache.layer_stride, cache.values,
        cache.head_stride,
    )  # fmt: skip
    return Launch("append", append_rows, (len(qkv), triton.cdiv(total, group)), arguments, constants)
