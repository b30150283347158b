"""The gate of a layer's input on the GPU: its product, gating, the projection, whose norm is a kernel more.

The residual stream's planes hold x times the norm of another reader, so the gate's product quantizes x's values itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import parameters, post_norm, product
from kernel_templates.cuda.gating import activate
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import group_places, store_groups
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.matvec.cuda import residual
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()
ROWS = 128
"""Of a program that gates: 4 a thread."""


def pack(problem: InputGate, config, weights, device: str) -> tuple[Planes, ...]:
    return tuple(pack_planes([weights[m.name]], device) for m in problem.matrices)


@triton.jit
def gate_input(
    y, given, values, high, low, scale, squares,
    SIZE: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """values [SIZE] = gelu(y) * given, quantized."""
    if PDL:
        gdc_launch_dependents()
    g, e = group_places(tl.program_id(0), ROWS, ASM)
    at, inside = g * 8 + e, g < SIZE // 8
    if PDL:
        gdc_wait()
    v = activate(tl.load(y + at, mask=inside, other=0.0), True, ASM) * tl.load(given + at, mask=inside, other=0.0)
    store_groups(values, high, low, scale, squares, g, e, v, v, inside, ACT, ASM)


def launches(problem: InputGate, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the values of the Vector "x", "input" and, with a scale, "out_scale", "post_norm" and "eps"; adds to "x",
    whose planes then hold x * next_norm; uses the Vectors "gated" [size], "raised" [size] and "branch" [hidden]."""
    gate, proj = packed
    x, raised, gated = buffers["x"], buffers["raised"], buffers["gated"]
    constants = parameters.constants(config, "gate_", gate.format, gate.cols, gate.rows, problem.activation)
    constants |= {"OUT_ACT": 0, "ADD": False, "SOURCE": "values", "FIRST": 0}
    arguments = (*gate.pointers, *x.pointers[:4], *raised.pointers, x.values, gate.rows, None)
    grid, bits = (parameters.programs(constants, gate.rows),), parameters.bits(problem.activation)
    shape = {"SIZE": problem.size, "ROWS": ROWS, "ACT": bits}
    return [
        Launch("input_gate", product.residual_product, grid, arguments, constants, config["gate_warps"]),
        Launch(
            "gate_input", gate_input, (triton.cdiv(problem.size, ROWS),),
            (raised.values, buffers["input"], *gated.pointers), shape, warps=1,
        ),
        *residual(problem, config, "proj_", proj, gated, x, buffers, "input_proj", scaled=bool(problem.out_scale)),
    ]  # fmt: skip


def prepare(problem: InputGate, inputs: Inputs, device: str) -> dict[str, Any]:
    b, size = inputs.buffers, problem.size
    x, raised, gated = (Vector.allocate(n, device) for n in (problem.hidden, size, size))
    x.fill(torch.from_numpy(b["x"][: problem.hidden].copy()), None, problem.activation)
    made = {
        "x": x, "raised": raised, "gated": gated, "input": torch.from_numpy(b["input"][:size].copy()).to(device),
        "next_norm": torch.ones(problem.hidden, device=device),
    }  # fmt: skip
    return made | post_norm.prepare(problem.hidden, inputs, device)


def collect(problem: InputGate, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"gated": buffers["gated"].values.cpu().numpy(), "x": buffers["x"].values.cpu().numpy()}
