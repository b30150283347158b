"""What gated delta nets keep of texts on a GPU: as much of a long text as of a short one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernel_templates.gated_delta.problem import GatedDelta
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.layer_sizes import LayerSizes

States = Mapping[str, Tensor]
"""Of one layer, by the names that links have for its buffers; empty for a layer of another kind."""
NAMES = ("conv_state", "state")


@dataclass(frozen=True)
class Checkpoint:
    """A copy of what layers kept of a text's first `position` tokens. Tokens are started before the end of an answer is
    known, and a state cannot go back: the next turn of a conversation goes on from here."""

    position: int
    states: tuple[States, ...]

    @classmethod
    def of(cls, position: int, layers: Sequence[States]) -> "Checkpoint":
        kept = ({name: of_layer[name].clone() for name in NAMES if name in of_layer} for of_layer in layers)
        return cls(position, tuple(kept))

    def restore(self, layers: Sequence[States]) -> None:
        for kept, of_layer in zip(self.states, layers, strict=True):
            for name, values in kept.items():
                of_layer[name].copy_(values)


def allocate(delta: GatedDelta, texts: int, device: torch.device) -> dict[str, Tensor]:
    """Of so many texts, float32: "conv_state" [texts, kernel, channels], and "state" [texts, heads, head_dim of k,
    head_dim of v]. Zeros: a text's first position reads neither. Raises ModelError when memory does not suffice."""
    shapes = (texts, delta.kernel, delta.channels), (texts, delta.heads, delta.head_dim, delta.head_dim)
    with explain_out_of_memory(f"the states of {texts} texts", FOR_CONTEXT):
        return {name: torch.zeros(shape, device=device) for name, shape in zip(NAMES, shapes, strict=True)}


def of_layers(sizes: Sequence[LayerSizes], texts: int, device: torch.device) -> tuple[States, ...]:
    return tuple(allocate(s.delta, texts, device) if s.delta else {} for s in sizes)
