"""The projections of a gated delta net on the GPU: a product of rows, whose last ones may be in another format; the
gates' few rows are a kernel of their own where they are in a third."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import stacked
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes
from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()


def pack(problem: NormQkvz, config, weights, device: str) -> tuple[Planes, ...]:
    """Neighbouring matrices of one format in one, whatever the configuration."""
    return stacked.pack(problem, weights, device)


def launches(problem: NormQkvz, config: Mapping[str, Any], packed, buffers: Mapping[str, Any]) -> list[Launch]:
    """Reads the Vector "x" (quantized times norm), "norm" and "eps"; writes "projected" float32 [rows]."""
    return stacked.launches("qkvz", config, packed, buffers, buffers["projected"], None, problem.activation)


def prepare(problem: NormQkvz, inputs: Inputs, device: str) -> dict[str, Any]:
    b = inputs.buffers
    x, norm = (torch.from_numpy(b[name][: problem.hidden].copy()).to(device) for name in ("x", "norm"))
    vector = Vector.allocate(problem.hidden, device)
    vector.fill(x, norm, problem.activation)
    projected = torch.full((sum(m.rows for m in problem.matrices),), float("nan"), device=device)
    return {"x": vector, "norm": norm, "eps": float(b["eps"][0]), "projected": projected}


def collect(problem: NormQkvz, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"projected": buffers["projected"].cpu().numpy()}
