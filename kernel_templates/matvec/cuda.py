"""y += W x on the GPU, and y quantized for the kernel that reads it next; with a post norm in two kernels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import parameters, post_norm, product
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
    """Reads the Vector "x" and, of a problem with a bias, "bias" float32 [rows]; adds to the Vector "out", whose planes
    then hold out * next_norm. With a post norm also reads "post_norm" and "eps", and uses the Vector "branch"."""
    bias = buffers["bias"] if problem.bias else None
    return residual(problem, config, "", packed[0], buffers["x"], buffers["out"], buffers, bias=bias)


def residual(
    problem: Any, config: Mapping[str, Any], prefix: str, planes: Planes, x: Vector, out: Vector,
    buffers: Mapping[str, Any], name: str = "out", bias: torch.Tensor | None = None, scaled: bool = False,
) -> list[Launch]:  # fmt: skip
    """`product.residual_product`, or, of a problem with a post norm, the product and then its norm; buffers:
    "next_norm", "post_norm", "eps" and "branch" as of `launches`, and if `scaled`, which needs a post norm, "out_scale"
    as of `post_norm.launch`; bias: float32 [rows], added to the product."""
    constants = parameters.constants(config, prefix, planes.format, planes.cols, planes.rows, problem.activation)
    normed, bits = bool(problem.post_norm), parameters.bits(problem.activation)
    constants |= {"OUT_ACT": 0 if normed else bits, "ADD": not normed, "FIRST": 0}
    written = buffers["branch"] if normed else out
    arguments = (*planes.pointers, *x.pointers[:4], *written.pointers, buffers["next_norm"], planes.rows, bias)
    grid = (parameters.programs(constants, planes.rows),)
    made = [Launch(name, product.residual_product, grid, arguments, constants, config[prefix + "warps"])]
    if not normed:
        return made
    return [*made, post_norm.launch(written, out, buffers, bits, f"{name}_norm", scaled)]


def prepare(problem: Matvec, inputs: Inputs, device: str) -> dict[str, Any]:
    x, out = Vector.allocate(problem.cols, device), Vector.allocate(problem.rows, device)
    x.fill(torch.from_numpy(inputs.buffers["x"][: problem.cols].copy()), None, problem.activation)
    out.values.copy_(torch.from_numpy(inputs.buffers["out"][: problem.rows].copy()))
    made = {"x": x, "out": out, "next_norm": torch.ones(problem.rows, device=device)}
    if problem.bias:
        made["bias"] = torch.from_numpy(inputs.buffers["bias"][: problem.rows].copy()).to(device)
    return made | (post_norm.prepare(problem.rows, inputs, device) if problem.post_norm else {})


def collect(problem: Matvec, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"out": buffers["out"].values.cpu().numpy()}
