"""A layer with a gated delta net on the GPU, of kernels that are chained as those of any layer."""

from typing import Any

import numpy as np
import torch

from kernel_templates.delta_layer.problem import DeltaLayer
from kernel_templates.gated_delta import cuda as gated_delta
from kernel_templates.layer.cuda import PACK_DEPENDS as PACK_DEPENDS
from kernel_templates.layer.cuda import collect as collect
from kernel_templates.layer.cuda import launches as launches
from kernel_templates.layer.cuda import pack as pack
from kernel_templates.layer.cuda import stream
from kernel_templates.operation import Inputs

OWN = ("conv", "decay", "dt_bias", "conv_state", "state", "position")


def prepare(problem: DeltaLayer, inputs: Inputs, device: str) -> dict[str, Any]:
    """The buffers of `layer.cuda.launches`: of a gated delta net "conv", "decay", "dt_bias", "delta_norm", both states
    and "position" as `gated_delta.cuda` has them, "projected" and the Vector "attended"."""
    part, b = problem.delta_part, inputs.buffers
    unwritten = np.full(part.projected_size, np.nan, np.float32)
    delta = gated_delta.prepare(part, Inputs({}, {**b, "norm": b["delta_norm"], "projected": unwritten}), device)
    return stream(problem, inputs, device) | {name: delta[name] for name in OWN} | {
        "delta_norm": delta["norm"], "projected": delta["projected"].view(-1), "attended": delta["out"],
        "delta_counters": torch.zeros(part.heads, dtype=torch.int32, device=device),
    }  # fmt: skip
