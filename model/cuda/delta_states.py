"""What gated delta nets keep of texts on a GPU: as much of a long text as of a short one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kernel_templates.gated_delta.problem import GatedDelta
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.layer_sizes import LayerSizes

States = Mapping[str, Tensor]
"""Of one layer, by the names that links have for its buffers; empty for a layer of another kind."""


def allocate(delta: GatedDelta, texts: int, device: torch.device) -> dict[str, Tensor]:
    """Of so many texts, float32: "conv_state" [texts, kernel, channels], and "state" [texts, heads, head_dim of k,
    head_dim of v]. Zeros: a text's first position reads neither. Raises ModelError when memory does not suffice."""
    shapes = {
        "conv_state": (texts, delta.kernel, delta.channels),
        "state": (texts, delta.heads, delta.head_dim, delta.head_dim),
    }
    with explain_out_of_memory(f"the states of {texts} texts", FOR_CONTEXT):
        return {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}


def of_layers(sizes: Sequence[LayerSizes], texts: int, device: torch.device) -> tuple[States, ...]:
    return tuple(allocate(s.delta, texts, device) if s.delta else {} for s in sizes)
