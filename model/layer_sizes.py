"""One layer of a model: its kind, its sizes, and what else differs from layer to layer, since models mix layers."""

from dataclasses import dataclass
from typing import Literal

from kernel_templates.gated_delta.problem import GatedDelta


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts; names and meanings are those of `Moe`. scale: of the weights; shared_ffn: rows of the
    shared expert's gate, 0 where there is none; beside: that is the layer's dense network, whose norms are not the
    mixture's, and experts have scales."""

    experts: int
    used: int
    routing: str
    normalized: bool
    scale: float = 1.0
    bias: bool = False
    shared_ffn: int = 0
    shared_gated: bool = False
    beside: bool = False


@dataclass(frozen=True)
class LayerSizes:
    """Names and meanings are those of the problems' fields (`NormQkvRope`, `Attention`, `Ffn`).

    mixer, feed_forward: the kinds of its halves, which `kernel_templates.layer.chain` wires. delta: the shapes of a
    gated delta net, None where the mixer is attention, to which the other sizes of heads belong. ffn: rows of gate and
    up, of one expert in a mixture. window: positions that attention sees, the present one among them, 0 for all;
    softcap: of its scores, 0 for none; scale: of its scores, 0 for 1 / sqrt(head_dim); sinks: 1 where each head has a
    score without a value; gate_function: "silu", "gelu" in its tanh form, or a mixture's "swiglu_oai"; output_gate:
    attention's output is multiplied with the sigmoid of a gate, which follows each query. cache_of: the earlier
    layer whose keys and values are attended over, None where the layer has its own; keys_are_values: values are what
    keys are projected to. layer_input: elements of a token's own input to the layer, 0 for none; out_scale: whether the
    layer's output is multiplied with a number of the file.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    ffn: int
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    sinks: int = 0
    gate_function: str = "silu"
    cache_of: int | None = None
    keys_are_values: bool = False
    layer_input: int = 0
    out_scale: bool = False
    mixture: Mixture | None = None
    output_gate: bool = False
    delta: GatedDelta | None = None

    @property
    def feed_forward(self) -> Literal["dense", "moe"]:
        return "dense" if self.mixture is None else "moe"

    @property
    def mixer(self) -> Literal["attention", "gated_delta"]:
        return "attention" if self.delta is None else "gated_delta"

    @property
    def attended(self) -> int:
        """Elements that the mixer gives."""
        return self.heads * self.head_dim if self.delta is None else self.delta.value_size

    @property
    def query_size(self) -> int:
        """Elements from one query to the next: a gate may lie between them."""
        return self.head_dim * (1 + self.output_gate)

    @property
    def q_rows(self) -> int:
        """Rows of the projection to queries, gates among them."""
        return self.heads * self.query_size

    @property
    def kv_rows(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def gated(self) -> int:
        """Gated products of a token, of all experts that it uses."""
        m = self.mixture
        return self.ffn if m is None else m.used * self.ffn + m.shared_ffn

    @property
    def own_kv_heads(self) -> int:
        """Key-value heads that the layer projects to and keeps."""
        return self.kv_heads if self.cache_of is None else 0

    @property
    def qkv_rows(self) -> int:
        """Of queries, and of keys and values that are the layer's own."""
        return self.q_rows + 2 * self.own_kv_heads * self.head_dim
