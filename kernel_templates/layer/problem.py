"""The shapes of a transformer layer."""

from dataclasses import KW_ONLY, dataclass, replace

from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.ffn.problem import Ffn
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.layer.chain import Link, links
from kernel_templates.matvec.problem import Matvec
from kernel_templates.moe.problem import GATE_FUNCTIONS, ROUTINGS, Moe
from kernel_templates.norm_qkv_rope.problem import HeadShapes, NormQkvRope
from kernel_templates.problem import Chain, Problem, trait


@dataclass(frozen=True)
class LinkedChain(Chain):
    """A layer of any kind. It names its links; the problem of each is the property `<prefix>_part`."""

    @property
    def links(self) -> tuple[Link, ...]:
        """Its operations, in order."""
        raise NotImplementedError

    def parts(self) -> dict[str, Problem]:
        return {link.prefix: getattr(self, f"{link.prefix}_part") for link in self.links}

    def below(self, context: int) -> "LinkedChain":
        """The same layer for positions below `context`: itself, where it costs the same at all of them."""
        return self


@dataclass(frozen=True)
class MixtureShapes:
    """What a layer has whose network is a mixture, 0 experts where it is none: names mean what they mean in `Moe`."""

    _: KW_ONLY
    experts: int = trait(0)
    used: int = trait(0)
    router_format: str = trait("")
    routing: str = trait("softmax", ROUTINGS)
    normalized: int = trait(0, (0, 1))
    routing_scale: float = trait(1.0)
    expert_bias: int = trait(0, (0, 1))
    shared_ffn: int = trait(0)
    shared_gate_format: str = trait("")
    shared_up_format: str = trait("")
    shared_down_format: str = trait("")
    shared_gated: int = trait(0, (0, 1))
    beside: int = trait(0, (0, 1))

    @property
    def feed_forward(self) -> str:
        """Its kind, as `layer.chain` names it."""
        return "moe" if self.experts else "dense"

    def mixture(self, dense: Ffn) -> Moe:
        """Of experts that are each as the network `dense`."""
        d = dense
        return Moe(
            d.hidden, d.ffn, self.experts, self.used, self.router_format, d.gate_format, d.up_format, d.down_format,
            d.activation, gate_function=d.gate_function, routing=self.routing, normalized=self.normalized,
            scale=self.routing_scale, bias=self.expert_bias, shared_ffn=self.shared_ffn,
            shared_gate_format=self.shared_gate_format, shared_up_format=self.shared_up_format,
            shared_down_format=self.shared_down_format, shared_gated=self.shared_gated, post_norm=d.post_norm,
            beside=self.beside, out_scale=d.out_scale,
        )  # fmt: skip


@dataclass(frozen=True)
class Layer(MixtureShapes, HeadShapes, LinkedChain, op="layer", template_version=1):
    """x [hidden] through one layer for one position, whose position is below `context`: its
    norms, projections, QK-norm, RoPE, attention and gated feed-forward network, with both residual additions. With
    `experts` the network is a mixture of them (`MixtureShapes`).

    shared_kv: 1 if attention reads keys and values that another layer has written, at this position too; k_format and
    v_format mean nothing then. layer_input: elements of the layer's own input (`InputGate`), 0 for none; out_scale: 1
    if x is multiplied with a number at the end; cache: the format of the KV cache, as of `Attention`.

    Only GPUs have a template: what it decides (`parts` after each other, chained) is how kernels get along.
    """

    ffn: int
    q_format: str
    k_format: str
    v_format: str
    out_format: str
    gate_format: str
    up_format: str
    down_format: str
    activation: str
    context: int
    window: int = trait(0)
    softcap: float = trait(0.0)
    scale: float = trait(0.0)
    sinks: int = trait(0, (0, 1))
    out_bias: int = trait(0, (0, 1))
    gate_function: str = trait("silu", GATE_FUNCTIONS)
    post_norm: int = trait(0, (0, 1))
    shared_kv: int = trait(0, (0, 1))
    layer_input: int = trait(0)
    input_gate_format: str = trait("")
    input_proj_format: str = trait("")
    out_scale: int = trait(0, (0, 1))
    cache: str = trait(cache.F16, cache.FORMATS)

    @property
    def links(self) -> tuple[Link, ...]:
        """Its operations, in order; the problem of each is the property `<prefix>_part`."""
        return links("attention", self.feed_forward, self.layer_input > 0)

    @property
    def qkv_part(self) -> NormQkvRope:
        return NormQkvRope(
            self.hidden, self.heads, 0 if self.shared_kv else self.kv_heads, self.head_dim, self.rope_dim, self.qk_norm,
            self.q_format, self.k_format, self.v_format, self.activation, qkv_bias=self.qkv_bias, v_norm=self.v_norm,
            output_gate=self.output_gate,
        )  # fmt: skip

    @property
    def attention_part(self) -> Attention:
        return Attention(
            self.heads, self.kv_heads, self.head_dim, self.context,
            window=self.window, softcap=self.softcap, scale=self.scale, sinks=self.sinks,
            output_gate=self.output_gate, cache=self.cache,
        )  # fmt: skip

    @property
    def out_part(self) -> Matvec:
        return Matvec(
            self.hidden, self.attended, self.out_format, self.activation, post_norm=self.post_norm, bias=self.out_bias
        )

    @property
    def ffn_part(self) -> Ffn:
        return Ffn(
            self.hidden, self.ffn, self.gate_format, self.up_format, self.down_format, self.activation,
            gate_function=self.gate_function, post_norm=self.post_norm,
            out_scale=0 if self.layer_input else self.out_scale,
        )  # fmt: skip

    @property
    def input_part(self) -> InputGate:
        return InputGate(
            self.hidden, self.layer_input, self.input_gate_format, self.input_proj_format, self.activation,
            out_scale=self.out_scale,
        )  # fmt: skip

    @property
    def moe_part(self) -> Moe:
        return self.mixture(self.ffn_part)

    @property
    def typical(self) -> "Layer":
        """As of `Attention`."""
        return replace(self, context=self.attention_part.typical.context)

    @property
    def typical_position(self) -> int:
        return self.typical.context - 1

    @property
    def typical_reach(self) -> int:
        return self.attention_part.typical_reach

    @property
    def without_context(self) -> "Layer":
        return replace(self, context=0)

    def below(self, context: int) -> "Layer":
        return replace(self, context=context)
