"""What a layer computes apart from its sizes and tensors, layer by layer: models mix kinds of layers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTraits:
    """Names and meanings are those of the problems' fields (`Attention`, `Ffn`).

    window: positions that attention sees, the present one among them, 0 for all; softcap: of its scores, 0 for none;
    scale: of its scores, 0 for 1 / sqrt(head_dim); gate_function: "silu", or "gelu" in its tanh form.
    """

    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    gate_function: str = "silu"
