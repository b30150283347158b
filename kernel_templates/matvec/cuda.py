"""y += W x on the GPU, and y quantized for the kernel that reads it next."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import parameters, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Inputs
from kernel_templates.problem import Problem

PACK_DEPENDS = ()


def pack(problem: Problem, config, weights, device: str) -> tuple[Planes, ...]:
    """For any problem of one matrix "w"."""
    return (pack_planes([weights["w"]], device),)


def launches(problem: Matvec, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x"; adds to the Vector "out", whose planes then hold out * next_norm."""
    return [residual(config, "", packed[0], problem.activation, buffers["x"], buffers["out"], buffers["next_norm"])]


def residual(
    config: Mapping[str, Any], prefix: str, planes: Planes, activation: str, x: Vector, out: Vector,
    next_norm: torch.Tensor, name: str = "out",
) -> Launch:  # fmt: skip
    """The launch of `product.residual_product`."""
    constants = parameters.constants(config, prefix, planes.format, planes.cols, planes.rows, activation)
    arguments = (*planes.pointers, *x.pointers[:4], *out.pointers, next_norm, planes.rows)
    constants["OUT_ACT"] = parameters.bits(activation)
    grid = (parameters.programs(constants, planes.rows),)
    return Launch(name, product.residual_product, grid, arguments, constants, config[prefix + "warps"])


def prepare(problem: Matvec, inputs: Inputs, device: str) -> dict[str, Any]:
    x, out = Vector.allocate(problem.cols, device), Vector.allocate(problem.rows, device)
    x.fill(torch.from_numpy(inputs.buffers["x"][: problem.cols].copy()), None, problem.activation)
    out.values.copy_(torch.from_numpy(inputs.buffers["out"][: problem.rows].copy()))
    return {"x": x, "out": out, "next_norm": torch.ones(problem.rows, device=device)}


def collect(problem: Matvec, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"out": buffers["out"].values.cpu().numpy()}
