"""The feed-forward half of a layer on the GPU: gate and up in one kernel, which gates and quantizes, then down; a post
norm is a kernel more."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import parameters, post_norm, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes, split
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.ffn.problem import Ffn
from kernel_templates.matvec.cuda import residual
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: Ffn, config, weights, device: str) -> tuple[Planes, ...]:
    """Gate and up in one piece if they have one format: products over many tokens read them as one."""
    gate, up, down = (weights[name] for name in ("gate", "up", "down"))
    if gate.format == up.format:
        both = split(pack_planes([gate, up], device), (gate.rows, up.rows))
    else:
        both = (pack_planes([gate], device), pack_planes([up], device))
    return (*both, pack_planes([down], device))


def launches(problem: Ffn, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times norm), "norm" and "eps"; writes the Vector "gated"; adds to "x", whose
    planes then hold x * next_norm. With a post norm also reads "post_norm", with a scale "out_scale", and uses the
    Vector "branch"."""
    gate, up, down = packed
    x, gated = buffers["x"], buffers["gated"]
    constants = parameters.constants(config, "gate_up_", gate.format, problem.hidden, problem.ffn, problem.activation)
    other = parameters.constants(config, "gate_up_", up.format, problem.hidden, problem.ffn, problem.activation)
    tiles = (constants["CHUNKS"] + other["CHUNKS"]) * constants["STEPS"]
    constants |= {
        "UP_TRAITS": up.traits,
        "UP_CHUNKS": other["CHUNKS"],
        "OUT_ACT": parameters.bits(problem.activation),
        "GATE": problem.gate_function,
    }
    constants["AHEAD"] = min(config["gate_up_ahead"], tiles)
    arguments = (
        *gate.pointers, *up.pointers, *x.pointers, buffers["norm"], buffers["eps"], *gated.pointers[:4], problem.ffn,
    )  # fmt: skip
    grid = (parameters.programs(constants, problem.ffn),)
    return [
        Launch("gate_up", product.gated_product, grid, arguments, constants, config["gate_up_warps"]),
        *residual(problem, config, "down_", down, gated, x, buffers, "down", scaled=bool(problem.out_scale)),
    ]


def prepare(problem: Ffn, inputs: Inputs, device: str) -> dict[str, Any]:
    b = inputs.buffers
    values, norm = (torch.from_numpy(b[name][: problem.hidden].copy()).to(device) for name in ("x", "norm"))
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norm, problem.activation)
    made = {
        "x": x, "norm": norm, "eps": float(b["eps"][0]), "gated": Vector.allocate(problem.ffn, device),
        "next_norm": torch.ones(problem.hidden, device=device),
    }  # fmt: skip
    return made | (post_norm.prepare(problem.hidden, inputs, device) if problem.post_norm else {})


def collect(problem: Ffn, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"gated": buffers["gated"].values.cpu().numpy(), "x": buffers["x"].values.cpu().numpy()}
