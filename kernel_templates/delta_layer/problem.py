"""The shapes of a layer with a gated delta net."""

from dataclasses import dataclass

from kernel_templates.ffn.problem import Ffn
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.layer.chain import Link, links
from kernel_templates.layer.problem import LinkedChain, MixtureShapes
from kernel_templates.matvec.problem import Matvec
from kernel_templates.moe.problem import Moe
from kernel_templates.norm_qkvz.problem import NormQkvz


@dataclass(frozen=True)
class DeltaLayer(MixtureShapes, LinkedChain, op="delta_layer", template_version=1):
    """x [hidden] through one layer for one position: projections, gated delta net and gated feed-forward network, with
    both residual additions. What it costs does not depend on the position. With `experts` the network is a mixture of
    them (`MixtureShapes`).

    Only GPUs have a template: what it decides (`parts` after each other, chained) is how kernels get along.
    """

    hidden: int
    heads: int
    key_heads: int
    head_dim: int
    kernel: int
    ffn: int
    qkv_format: str
    z_format: str
    gates_format: str
    out_format: str
    gate_format: str
    up_format: str
    down_format: str
    activation: str

    @property
    def links(self) -> tuple[Link, ...]:
        return links("gated_delta", self.feed_forward)

    @property
    def proved_positions(self) -> tuple[int, ...]:
        return self.delta_part.proved_positions

    @property
    def qkvz_part(self) -> NormQkvz:
        return NormQkvz(
            self.hidden, self.heads, self.key_heads, self.head_dim,
            self.qkv_format, self.z_format, self.gates_format, self.activation,
        )  # fmt: skip

    @property
    def delta_part(self) -> GatedDelta:
        return GatedDelta(self.heads, self.key_heads, self.head_dim, self.kernel)

    @property
    def out_part(self) -> Matvec:
        return Matvec(self.hidden, self.heads * self.head_dim, self.out_format, self.activation)

    @property
    def ffn_part(self) -> Ffn:
        return Ffn(self.hidden, self.ffn, self.gate_format, self.up_format, self.down_format, self.activation)

    @property
    def moe_part(self) -> Moe:
        return self.mixture(self.ffn_part)
