"""Rows times their experts' matrices on the GPU: blocks of the pairs of each expert by `thin`, `wide` or `float`.

Activations are float16, in the order of columns that the algorithm reads (`order`), as of `matmul`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import fragments, thin
from kernel_templates.cuda.fragments import NATURAL, THIN, WIDE
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.weights import Planes, joined
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.grouped_matmul import kernels
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()
KERNELS = {"thin": kernels.grouped_thin, "wide": kernels.grouped_wide, "float": kernels.grouped_float}


def pack(problem: GroupedMatmul, config, weights, device: str) -> tuple[Planes, ...]:
    return (pack_planes([weights["w"]], device),)


def order(config: Mapping[str, Any]) -> int:
    """Of the columns of x, as of `cuda.fragments`: what the producer of the activations has to write."""
    return {"float": NATURAL, "thin": THIN, "wide": WIDE}[config["algorithm"]]


def blocks(problem: GroupedMatmul, block: int) -> int:
    """No pairs make more blocks: each expert has one that is not full at most, and none is empty."""
    return min(problem.pairs, problem.pairs // block + problem.experts)


def launches(
    problem: GroupedMatmul, config: Mapping[str, Any], packed: Sequence[Planes], buffers: Mapping[str, Any]
) -> list[Launch]:
    """Reads "x" float16 [rows of x, width of its order] by the order of its columns, "offsets" int32 [experts + 1] and
    "pairs" int32 [tokens * used], sorted by expert (`moe.rows`), and with a bias "gate_bias" and "up_bias"; writes "y"
    [tokens * used, rows], or with a gate float16 [tokens * used, width of "y_order"], times `gating.GATED_SCALE`.
    packed: the matrix, or gates and ups one below the other in memory. Rows of y without a pair are left alone."""
    planes = joined(packed)
    if planes is None:
        raise ValueError("gates and ups are apart in memory: multiply them one by one")
    algorithm, block, warps, x_order = config["algorithm"], config["block"], config["warps"], order(config)
    y = buffers["y"]
    constants: dict[str, Any] = {
        "EXPERTS": problem.experts, "LANES": triton.next_power_of_2(problem.experts), "ROWS": problem.outputs,
        "USED": problem.share, "TRAITS": planes.traits, "COLS": problem.cols, "BLOCK": block, "WARPS": warps,
        "GATE": problem.gate, "OUT_WIDTH": y.stride(0), "OUT_ORDER": buffers.get("y_order", NATURAL),
    }  # fmt: skip
    if algorithm == "float":
        parts = triton.cdiv(problem.outputs, 16 * warps)
    else:
        tiles, across = config["tiles"], 1 if algorithm == "thin" else warps
        parts = thin.programs(problem.outputs, tiles * across, problem.gate)
        constants |= {"TILES": tiles, "AHEAD": config["ahead"]}
    if algorithm == "thin":
        steps = triton.cdiv(triton.cdiv(problem.cols, 128), warps)
        constants["AHEAD"] = min(config["ahead"], steps)
        constants["STEPS"] = triton.cdiv(steps, constants["AHEAD"]) * constants["AHEAD"]
        constants |= {"WIDTH": fragments.width(problem.cols, x_order), "ORDER": x_order}
    elif algorithm == "wide":
        constants |= {"PARTS": 2, "STAGES": config["stages"]}
    biases = (buffers["gate_bias"], buffers["up_bias"]) if problem.bias else (None, None)
    arguments = (*planes.pointers, buffers["x"][x_order], y, buffers["offsets"], buffers["pairs"], *biases)
    grid, name = (parts, blocks(problem, block)), buffers.get("name", "grouped_matmul")
    return [Launch(name, KERNELS[algorithm], grid, arguments, constants, warps)]


def prepare(problem: GroupedMatmul, inputs: Inputs, device: str) -> dict[str, Any]:
    """x in every order; pairs sorted as `moe.rows.group` leaves them."""
    b = inputs.buffers
    x = torch.from_numpy(b["x"][: problem.pairs // problem.share * problem.cols].copy()).view(-1, problem.cols)
    x = x.to(device).to(torch.float16)
    ids = b["expert_ids"]
    offsets = np.searchsorted(np.sort(ids), np.arange(problem.experts + 1)).astype(np.int32)
    sizes = {name: problem.experts * problem.outputs for name in ("gate_bias", "up_bias") if problem.bias}
    return {
        "x": {each: fragments.arranged(x, each) for each in (NATURAL, WIDE, THIN)},
        "y": torch.full(
            (problem.pairs, problem.outputs), float("nan"), dtype=torch.float16 if problem.gate else torch.float32,
            device=device,
        ),
        "offsets": torch.from_numpy(offsets).to(device),
        "pairs": torch.from_numpy(np.argsort(ids, kind="stable").astype(np.int32)).to(device),
        **{name: torch.from_numpy(b[name][:size].copy()).to(device) for name, size in sizes.items()},
    }  # fmt: skip


def collect(problem: GroupedMatmul, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    y = buffers["y"].float() / GATED_SCALE.value if problem.gate else buffers["y"]
    return {"y": y.cpu().numpy().ravel()}
