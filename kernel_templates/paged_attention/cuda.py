"""Attention over many rows on the GPU: one kernel, and another where programs share a row's positions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda.fragments import NATURAL
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.operation import Inputs
from kernel_templates.paged_attention import cuda_kernel
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.paged_attention.reference import DISTINCT, PAGE
from kernel_templates.paged_attention.space import block_tokens, dims, together

PACK_DEPENDS = ()


def pack(problem: PagedAttention, config, weights, device: str) -> tuple[()]:
    """There are no weights."""
    return ()


def scratch_size(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """float32 elements that splits leave for each other: outputs, and logarithms of sums."""
    splits = config["splits"]
    return problem.rows * problem.heads * splits * (problem.head_dim + 1) if splits > 1 else 0


def launches(problem: PagedAttention, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads "q" float16 [rows, heads, head_dim], "positions" and "sequences" int32 [rows], "paged", a PagedCache that
    holds the rows' own keys and values already, and "layer", which of its layers (0 if there is none); writes "out"
    float16 [rows, heads * head_dim], or in another order of columns, "out_order" of `cuda.fragments`, rows as wide as
    that wants.

    Rows of one text are neighbours, at consecutive positions; -1 for those that are not used. "attention_scratch"
    float32 [>= scratch_size] may be shared by all layers; it is made here if there is none or too little.
    """
    paged: PagedCache = buffers["paged"]
    q, out = buffers["q"], buffers["out"]
    size = scratch_size(problem, config)
    partial = buffers.get("attention_scratch")
    if size and (partial is None or partial.numel() < size):
        partial = torch.full((size,), float("nan"), device=q.device)
    splits, block, heads = config["splits"], block_tokens(problem, config), together(problem, config)
    columns = problem.kv_heads * -(-problem.group // heads)
    blocks = problem.sequences * -(-problem.tokens // block)
    lines = problem.rows * problem.heads
    shape = {
        "HEAD_DIM": problem.head_dim, "DIMS": dims(problem), "HEADS": problem.heads, "SPLITS": splits,
        "WIDTH": out.shape[1], "ORDER": buffers.get("out_order", NATURAL),
    }  # fmt: skip
    attend = Launch(
        "paged_attention",
        cuda_kernel.attend_pages,
        (columns, blocks, splits),
        (
            q, paged.cache, paged.table, buffers["positions"], buffers["sequences"], out,
            partial if size else q,  # a pointer that is never followed still needs a tensor
            buffers.get("layer", 0) * paged.layer_stride, paged.values, paged.head_stride, paged.table.shape[1], lines,
        ),
        shape | {
            "TOKENS": problem.tokens, "KV_HEADS": problem.kv_heads, "ROWS": config["rows"],
            "BLOCK": block, "TOGETHER": heads, "TILE": config["tile"], "PAGE": paged.page, "STAGES": config["stages"],
            "APART": config["edges"] == "apart", "WINDOW": problem.window, "SCALE": problem.score_scale,
            "SOFTCAP": problem.softcap,
        },
        config["warps"],
    )  # fmt: skip
    if splits == 1:
        return [attend]
    warps = 4 if splits * shape["DIMS"] > 1024 else 1
    return [
        attend,
        Launch("attention_combine", cuda_kernel.combine_pages, (lines,), (partial, out, lines), shape, warps),
    ]


def prepare(problem: PagedAttention, inputs: Inputs, device: str) -> dict[str, Any]:
    """The buffers of `launches`. What no row sees is NaN in the cache, pages that no text uses among it.

    "position" is another name of "positions": filled, it moves all rows there."""
    b = inputs.buffers
    kept = {name: torch.tensor(b[name], device=device) for name in ("q", "positions", "sequences")}
    out = torch.full(b["out"].shape, float("nan"), dtype=torch.float16, device=device)
    return kept | {"position": kept["positions"], "paged": _paged(problem, b, device), "out": out}


def collect(problem: PagedAttention, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"out": buffers["out"].cpu().numpy()}


def _paged(problem: PagedAttention, b: Mapping[str, np.ndarray], device: str) -> PagedCache:
    """float16 [slots + 1, 2, kv_heads, PAGE, head_dim]; the last slot is nobody's."""
    slots = torch.from_numpy(b["slots"]).to(device)
    content = torch.stack([torch.from_numpy(b[name]).to(device) for name in ("keys", "values")], 1)
    which = torch.arange(slots.numel(), device=device) % DISTINCT
    cache = torch.cat([content[which], content.new_full((1, *content.shape[1:]), float("nan"))])
    if slots.device.type != "meta":
        for text in np.unique(b["sequences"]):
            end = int(b["positions"][b["sequences"] == text].max()) + 1
            for page in range(end // PAGE, slots.shape[1]):
                cache[b["slots"][text, page], :, :, max(end - page * PAGE, 0) :] = float("nan")
    page = cache[0].numel()
    stride = cache.stride()
    return PagedCache(cache, slots * page, layer_stride=page, values=stride[1], head_stride=stride[2], page=PAGE)
