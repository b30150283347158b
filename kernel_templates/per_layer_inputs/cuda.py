"""A token's inputs to the layers on the GPU: the product, then a program for each layer that norms and mixes its part.

The residual stream's planes hold x times the first layer's norm, so the product quantizes x's values itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import parameters, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.vector import Vector
from kernel_templates.matvec.cuda import pack
from kernel_templates.operation import Inputs
from kernel_templates.per_layer_inputs.problem import PerLayerInputs

__all__ = ["PACK_DEPENDS", "collect", "launches", "pack", "prepare"]

PACK_DEPENDS = ()


@triton.jit
def mix_inputs(
    projected, norm, inputs, eps,
    HIDDEN: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program: a layer's part, inputs = (rmsnorm(projected / sqrt(HIDDEN)) * norm + inputs) / sqrt(2)."""
    if PDL:
        gdc_launch_dependents()
    at = tl.arange(0, TILE)
    inside = at < SIZE
    weight = tl.load(norm + at, mask=inside, other=0.0)
    first = tl.program_id(0) * SIZE
    if PDL:
        gdc_wait()
    y = tl.load(projected + first + at, mask=inside, other=0.0)
    own = tl.load(inputs + first + at, mask=inside, other=0.0)
    # The division by sqrt(HIDDEN) before the norm is one of its eps.
    factor = tl.rsqrt(tl.sum(y * y, 0) * (1.0 / SIZE) + eps * HIDDEN)
    tl.store(inputs + first + at, (y * factor * weight + own) * 0.7071067811865476, mask=inside)


def launches(problem: PerLayerInputs, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the values of the Vector "x", "norm" and "eps"; changes "inputs"; uses the Vector "projected"."""
    (w,), x, projected = packed, buffers["x"], buffers["projected"]
    constants = parameters.constants(config, "", w.format, w.cols, w.rows, problem.activation)
    constants |= {"OUT_ACT": 0, "ADD": False, "SOURCE": "values", "FIRST": 0}
    arguments = (*w.pointers, *x.pointers[:4], *projected.pointers, x.values, w.rows, None)
    grid = (parameters.programs(constants, w.rows),)
    tile = triton.next_power_of_2(problem.size)
    return [
        Launch("layer_inputs", product.residual_product, grid, arguments, constants, config["warps"]),
        Launch(
            "mix_inputs", mix_inputs, (problem.layers,),
            (projected.values, buffers["norm"], buffers["inputs"], buffers["eps"]),
            {"HIDDEN": problem.hidden, "SIZE": problem.size, "TILE": tile}, warps=1,
        ),
    ]  # fmt: skip


def prepare(problem: PerLayerInputs, inputs: Inputs, device: str) -> dict[str, Any]:
    b = inputs.buffers
    x = Vector.allocate(problem.hidden, device)
    x.fill(torch.from_numpy(b["x"][: problem.hidden].copy()), None, problem.activation)
    sizes = {"norm": problem.size, "inputs": problem.rows}
    read = {name: torch.from_numpy(b[name][:size].copy()).to(device) for name, size in sizes.items()}
    return read | {"x": x, "projected": Vector.allocate(problem.rows, device), "eps": float(b["eps"][0])}


def collect(problem: PerLayerInputs, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"inputs": buffers["inputs"].cpu().numpy()}
