"""Attention over many rows on the GPU: one kernel, and maybe another where programs share a row's positions.

The kernel is `cuda_kernel` (tiles of keys and values in shared memory) or, of few rows, `cuda_few` (in registers).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.attention import cache
from kernel_templates.cuda.fragments import NATURAL
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.cuda.rows.append import Heads
from kernel_templates.operation import Inputs
from kernel_templates.paged_attention import cuda_few, cuda_kernel, parts
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.paged_attention.reference import DISTINCT, PAGE
from kernel_templates.paged_attention.space import REGISTERS, block_tokens, dims, together

PACK_DEPENDS = ()
_JOINED = 32  # float32 of the splits that a thread reads at once
_JOINED_FEW = 128  # the same where no more is in registers: each further turn is a way to the second-level cache


def pack(problem: PagedAttention, config, weights, device: str) -> tuple[()]:
    """There are no weights."""
    return ()


def scratch_size(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """float32 elements that splits leave for each other: outputs, and logarithms of sums."""
    count = _parts(config)
    return problem.rows * problem.heads * count * (problem.head_dim + 1) if count > 1 else 0


def counters(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """int32 elements in which splits count who has ended."""
    columns, blocks = _programs(problem, config)
    return columns * blocks if _parts(config) > 1 and config["combine"] == "last" else 0


def finishes(problem: PagedAttention, config: Mapping[str, Any]) -> bool:
    """Whether heads can be finished here ("finish" of `launches`)."""
    return config["algorithm"] == REGISTERS


def _parts(config: Mapping[str, Any]) -> int:
    """Into which a row's positions fall: with keys in registers, the pass's own rows are one more."""
    return config["splits"] + (config["algorithm"] == REGISTERS)


def launches(problem: PagedAttention, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads "q" float16 [rows, heads, head_dim], "positions" and "sequences" int32 [rows], "paged", the layer's
    PagedCache, which holds the rows' own keys and values already; writes "out" float16 [rows, heads * head_dim], or in
    another order of columns, "out_order" of `cuda.fragments`, rows as wide as that wants.

    With "finish", the `Heads` of `cuda.rows.append`, it does what that does as well: instead of "q" it reads "qkv",
    float32 [rows, (heads + 2 kv_heads) head_dim], and writes the rows' keys and values into the cache. No two rows of a
    text may be at one position then. Raises ValueError where `finishes` says no.

    Of a problem with sinks it also reads "sinks", float32 [heads].

    Rows of one text are neighbours, at consecutive positions; -1 for those that are not used. "attention_scratch"
    float32 [>= scratch_size] and "attention_counters" int32 [>= counters], zeros, may be shared by all layers; they are
    made here if there are none or too few.
    """
    paged: PagedCache = buffers["paged"]
    how: Heads | None = buffers.get("finish")
    q, out = buffers["q" if how is None else "qkv"], buffers["out"]
    if how is not None and not finishes(problem, config):
        raise ValueError(f"heads of {problem.key} want a kernel of their own")
    count, block, heads = _parts(config), block_tokens(problem, config), together(problem, config)
    last_joins = count > 1 and config["combine"] == "last"
    partial = _buffer(buffers, "attention_scratch", scratch_size(problem, config), q, float("nan"), torch.float32)
    counting = _buffer(buffers, "attention_counters", counters(problem, config), q, 0, torch.int32)
    lines = problem.rows * problem.heads
    shape = {
        "HEAD_DIM": problem.head_dim, "DIMS": dims(problem), "HEADS": problem.heads, "SPLITS": count,
        "WIDTH": out.shape[1], "ORDER": buffers.get("out_order", NATURAL),
    }  # fmt: skip
    constants = shape | {
        "TOKENS": problem.tokens, "KV_HEADS": problem.kv_heads, "BLOCK": block, "TOGETHER": heads,
        "TILE": config["tile"], "PAGE": paged.page, "WINDOW": problem.window, "SCALE": problem.score_scale,
        "SOFTCAP": problem.softcap, "LAST_JOINS": last_joins,
    }  # fmt: skip
    sinks = buffers["sinks"] if problem.sinks else None
    inputs = (q, paged.cache, paged.table, buffers["positions"], buffers["sequences"], out, partial, counting, sinks)
    strides = (paged.layer, paged.values, paged.head_stride, paged.table.shape[1], lines)
    quantized = (paged.scales, paged.scale_layer)
    grid = (*_programs(problem, config), count)
    if config["algorithm"] == REGISTERS:
        norms = (q, q) if how is None or how.norms is None else how.norms  # pointers that are never followed
        bias = q if how is None or how.bias is None else how.bias
        heads_made = (bias, *norms, q if how is None else how.rope, 0.0 if how is None else how.eps)
        wide = max(dims(problem), 32)
        elements = max(1, _lines(problem, config) * wide // (32 * config["warps"]))
        own = constants | _joining(config, elements, min(4, elements)) | {
            "WARPS": config["warps"], "LINES": _lines(problem, config), "FINISH": how is not None,
            "QK_NORM": how is not None and how.norms is not None, "BIAS": how is not None and how.bias is not None,
            "V_NORM": how is not None and how.v_norm,
            "ROPE_DIM": 2 if how is None else how.rope.shape[1], "DIMS": wide,
        }  # fmt: skip
        arguments = (*inputs, *heads_made, *strides)
        attend = Launch("paged_attention", cuda_few.attend_few, grid, arguments, own, config["warps"])
    else:
        elements = _lines(problem, config) * dims(problem)
        own = {"ROWS": config["rows"], "STAGES": config["stages"], "APART": config["edges"] == "apart"}
        own |= {"LINES": _lines(problem, config)}
        own |= {"RUN": max(1, min(count, int(_JOINED * 32 * config["warps"] / elements)))}
        own["PER_SCALE"] = paged.per_scale
        arguments = (*inputs, *strides, *quantized)
        attend = Launch("paged_attention", cuda_kernel.attend_pages, grid, arguments, constants | own, config["warps"])
    if count == 1 or last_joins:
        return [attend]
    return [attend, _join(problem, config, shape, (partial, out, buffers["positions"], sinks, lines))]


def _join(problem: PagedAttention, config: Mapping[str, Any], shape: Mapping[str, Any], arguments) -> Launch:
    """The kernel that joins the parts of a row's head."""
    partial, out, positions, sinks, lines = arguments
    if config["algorithm"] != REGISTERS:
        warps = 4 if config["splits"] * shape["DIMS"] > 1024 else 1
        return Launch(
            "attention_combine", cuda_kernel.combine_pages, (lines,), (partial, out, sinks, lines), shape, warps
        )
    wide = max(dims(problem), 32)
    each = max(1, min(4, wide // 32))
    own = {"TOKENS": problem.tokens, "TILE": config["tile"], "WINDOW": problem.window, "DIMS": wide}
    return Launch(
        "attention_combine", parts.join_few, (lines,), (partial, out, positions, sinks, lines),
        dict(shape) | own | _joining(config, wide // 32, each), 1,
    )  # fmt: skip


def _joining(config: Mapping[str, Any], elements: int, each: int) -> dict[str, int]:
    """How a thread that joins `elements` reads: parts at once, neighbouring elements."""
    return {"RUN": max(1, min(triton.next_power_of_2(_parts(config)), _JOINED_FEW // elements)), "EACH": each}


def _lines(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Query heads that a program has, padded: Triton's blocks have powers of two."""
    return triton.next_power_of_2(block_tokens(problem, config) * together(problem, config))


def _programs(problem: PagedAttention, config: Mapping[str, Any]) -> tuple[int, int]:
    """Of one split: parts of the heads, blocks of tokens."""
    parts = -(-problem.group // together(problem, config))
    blocks = -(-problem.tokens // block_tokens(problem, config))
    return problem.kv_heads * parts, problem.sequences * blocks


def _buffer(buffers: Mapping[str, Any], name: str, size: int, like: torch.Tensor, value: float, dtype: torch.dtype):
    """At least so many elements; of none, any tensor: a pointer that is never followed."""
    found = buffers.get(name)
    if not size:
        return like
    if found is None or found.numel() < size:
        return torch.full((size,), value, dtype=dtype, device=like.device)
    return found


def prepare(problem: PagedAttention, inputs: Inputs, device: str) -> dict[str, Any]:
    """The buffers of `launches`. What no row sees is NaN in the cache, pages that no text uses among it.

    "position" is another name of "positions": filled, it moves all rows there."""
    b = inputs.buffers
    names = ("q", "positions", "sequences", *(("sinks",) if problem.sinks else ()))
    kept = {name: torch.tensor(b[name], device=device) for name in names}
    out = torch.full(b["out"].shape, float("nan"), dtype=torch.float16, device=device)
    return kept | {"position": kept["positions"], "paged": _paged(problem, b, device), "out": out}


def collect(problem: PagedAttention, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"out": buffers["out"].cpu().numpy()}


def _paged(problem: PagedAttention, b: Mapping[str, np.ndarray], device: str) -> PagedCache:
    """[slots + 1, 2, kv_heads, PAGE, head_dim], float16, or int8 with float32 scales of the same shape but the last
    axis; the last slot is nobody's."""
    slots = torch.from_numpy(b["slots"]).to(device)
    whole, scales = _shapes(slots, b) if slots.is_meta else _filled(slots, b), None
    if problem.cache != cache.F16:
        whole, scales = cache.quantized(whole)
    page, stride = whole[0].numel(), whole.stride()
    places = (torch.from_numpy(b["slots"]) * page).to(device)
    of_scales: dict[str, Any] = (
        {} if scales is None else {"scales": scales, "scale_layer": 0, "per_scale": problem.head_dim}
    )
    return PagedCache(whole, places, layer=0, values=stride[1], head_stride=stride[2], page=PAGE, **of_scales)


def _filled(slots: torch.Tensor, b: Mapping[str, np.ndarray]) -> torch.Tensor:
    """Pages that repeat, NaN wherever no text has written."""
    content = torch.stack([torch.from_numpy(b[name]).to(slots.device) for name in ("keys", "values")], 1)
    which = torch.arange(slots.numel(), device=slots.device) % DISTINCT
    whole = torch.cat([content[which], content.new_full((1, *content.shape[1:]), float("nan"))])
    for text in np.unique(b["sequences"]):
        end = int(b["positions"][b["sequences"] == text].max()) + 1
        for page in range(end // PAGE, slots.shape[1]):
            whole[b["slots"][text, page], :, :, max(end - page * PAGE, 0) :] = float("nan")
    return whole


def _shapes(slots: torch.Tensor, b: Mapping[str, np.ndarray]) -> torch.Tensor:
    """The same without values; to index and to join there, torch would import its whole compiler."""
    one = torch.from_numpy(b["keys"][:1])
    return torch.empty((slots.numel() + 1, 2, *one.shape[1:]), dtype=one.dtype, device="meta")
