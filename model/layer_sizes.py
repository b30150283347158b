"""One layer of a model: its kind, its sizes, and what else differs from layer to layer, since models mix layers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerSizes:
    """Names and meanings are those of the problems' fields (`NormQkvRope`, `Attention`, `Ffn`).

    mixer, feed_forward: the kinds of its halves, which `kernel_templates.layer.chain` wires. ffn: rows of gate and up.
    window: positions that attention sees, the present one among them, 0 for all; softcap: of its scores, 0 for none;
    scale: of its scores, 0 for 1 / sqrt(head_dim); gate_function: "silu", or "gelu" in its tanh form.
    cache_of: the earlier layer whose keys and values are attended over, None where the layer has its own;
    keys_are_values: values are what keys are projected to. layer_input: elements of a token's own input to the layer,
    0 for none; out_scale: whether the layer's output is multiplied with a number of the file.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    ffn: int
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    gate_function: str = "silu"
    cache_of: int | None = None
    keys_are_values: bool = False
    layer_input: int = 0
    out_scale: bool = False
    mixer: Literal["attention"] = "attention"
    feed_forward: Literal["dense"] = "dense"

    @property
    def q_rows(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def own_kv_heads(self) -> int:
        """Key-value heads that the layer projects to and keeps."""
        return self.kv_heads if self.cache_of is None else 0

    @property
    def qkv_rows(self) -> int:
        """Of queries, and of keys and values that are the layer's own."""
        return self.q_rows + 2 * self.own_kv_heads * self.head_dim
