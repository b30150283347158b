"""Logits on the GPU, with each program's largest one, so that choosing the likeliest token need not read them all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import parameters, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.head.problem import Head
from kernel_templates.matvec.cuda import PACK_DEPENDS, pack
from kernel_templates.operation import Inputs

__all__ = ["PACK_DEPENDS", "collect", "launches", "pack", "partials", "prepare"]


def partials(problem: Head, config: Mapping[str, Any]) -> int:
    """How many partial maxima the kernel leaves in "best_value" and "best_id"."""
    return parameters.programs(_constants(problem, config), problem.vocab)


def launches(problem: Head, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times norm), "norm" and "eps"; writes "logits" float32 [vocab], "best_value"
    float32 and "best_id" int32 [partials]."""
    constants = _constants(problem, config) | {"BEST": True, "SOFT_CAP": problem.softcap}
    outputs = (buffers["logits"], buffers["best_value"], buffers["best_id"])
    arguments = (
        *packed[0].pointers, *buffers["x"].pointers, buffers["norm"], buffers["eps"], *outputs, problem.vocab, None,
    )  # fmt: skip
    grid = (parameters.programs(constants, problem.vocab),)
    return [Launch("head", product.rows_product, grid, arguments, constants, config["warps"])]


def _constants(problem: Head, config: Mapping[str, Any]) -> dict[str, Any]:
    return parameters.constants(config, "", problem.format, problem.hidden, problem.vocab, problem.activation)


def prepare(problem: Head, inputs: Inputs, device: str) -> dict[str, Any]:
    b = inputs.buffers
    values, norm = (torch.from_numpy(b[name][: problem.hidden].copy()).to(device) for name in ("x", "norm"))
    x = Vector.allocate(problem.hidden, device)
    x.fill(values, norm, problem.activation)
    nan = float("nan")
    return {
        "x": x, "norm": norm, "eps": float(b["eps"][0]),
        "logits": torch.full((problem.vocab,), nan, device=device),
        "best_value": torch.full((problem.vocab,), nan, device=device),
        "best_id": torch.full((problem.vocab,), -1, dtype=torch.int32, device=device),
    }  # fmt: skip


def collect(problem: Head, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"logits": buffers["logits"].cpu().numpy()}
