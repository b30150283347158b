"""How a layer is wired: its operations in order, the matrices of each, and which of the layer's buffers each one uses.

A layer is a mixer, which brings other positions in, and a feed-forward network; there are kinds of either, and models
mix them. Behind both some models let an input of the layer's own in. The one place that says so. The GPU's chain of
kernels and its reference follow from it here; in `model`, so do the processor's steps and both ways of reading a
prompt. A new kind is its links, under its name in `MIXERS` or `FEED_FORWARDS`; a `LinkedChain` has a property for the
problem of each link, and `model.layer_tensors` its tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from kernel_templates import attention, ffn, gated_delta, input_gate, matvec, moe, norm_qkv_rope, norm_qkvz
from kernel_templates.moe.problem import BESIDE
from kernel_templates.operation import Operation

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """One operation in a layer.

    prefix: of its parameters in the layer's space, and its key in `Layer.parts`; weights: the operation's name of a
    matrix -> the layer's, those included that not every layer of the kind has; buffers: the same for what it reads and
    writes. Buffers not named there are called alike in the operation and in the layer: what is kept of a text ("keys"
    and "values", or "conv_state" and "state"),
    "position", "rope", "eps" and scratch memory.
    """

    prefix: str
    operation: Operation
    weights: Mapping[str, str] = field(default_factory=dict)
    buffers: Mapping[str, str] = field(default_factory=dict)

    def own_weights(self, weights: Mapping[str, T]) -> dict[str, T]:
        """The layer's matrices by the operation's names, as far as the layer has them."""
        return {own: weights[name] for own, name in self.weights.items() if name in weights}

    def bound(self, buffers: Mapping[str, T]) -> dict[str, T]:
        """The layer's buffers by the operation's names."""
        return {**buffers, **{own: buffers[name] for own, name in self.buffers.items() if name in buffers}}

    def written(self, outputs: Mapping[str, T]) -> dict[str, T]:
        """The operation's outputs by the layer's names."""
        return {self.buffers.get(own, own): value for own, value in outputs.items()}


POST_NORMS = ("post_attn_norm", "post_ffn_norm")
"""What a layer with post norms has besides."""

# "x" is the residual stream. "next_norm" is what a GPU multiplies it with for the next reader as it quantizes it.
QKV = Link(
    "qkv",
    norm_qkv_rope.OPERATION,
    weights={"q": "q", "k": "k", "v": "v"},
    buffers={
        "x": "x",
        "norm": "attn_norm",
        "q_norm": "q_norm",
        "k_norm": "k_norm",
        "bias": "qkv_bias",
        "qkv": "qkv",
    },
)
ATTENTION = Link("attention", attention.OPERATION, buffers={"q": "qkv", "sinks": "sinks", "out": "attended"})
OUT = Link(
    "out",
    matvec.OPERATION,
    weights={"w": "out"},
    buffers={"x": "attended", "bias": "out_bias", "out": "x", "post_norm": "post_attn_norm", "next_norm": "ffn_norm"},
)
QKVZ = Link(
    "qkvz",
    norm_qkvz.OPERATION,
    weights={"qkv": "qkv", "z": "z", "beta": "beta", "alpha": "alpha"},
    buffers={"x": "x", "norm": "attn_norm", "projected": "projected"},
)
DELTA = Link(
    "delta",
    gated_delta.OPERATION,
    buffers={
        "projected": "projected",
        "conv": "conv",
        "decay": "decay",
        "dt_bias": "dt_bias",
        "norm": "delta_norm",
        "out": "attended",
    },
)
FFN = Link(
    "ffn",
    ffn.OPERATION,
    weights={"gate": "gate", "up": "up", "down": "down"},
    buffers={
        "x": "x",
        "norm": "ffn_norm",
        "gated": "gated",
        "post_norm": "post_ffn_norm",
        "next_norm": "next_norm",
        "out_scale": "out_scale",
    },
)
INPUT = Link(
    "input",
    input_gate.OPERATION,
    weights={"gate": "input_gate", "proj": "input_proj"},
    buffers={
        "x": "x",
        "input": "input",
        "gated": "input_gated",
        "raised": "raised",
        "post_norm": "post_input_norm",
        "next_norm": "next_norm",
        "out_scale": "out_scale",
    },
)

MOE = Link(
    "moe",
    moe.OPERATION,
    weights={
        name: name
        for name in ("router", "gate", "up", "down", "shared_gate", "shared_up", "shared_down", "shared_router")
    },
    buffers={
        "x": "x",
        "norm": "ffn_norm",
        "router_bias": "router_bias",
        "gate_bias": "gate_bias",
        "up_bias": "up_bias",
        "down_bias": "down_bias",
        "gated": "gated",
        "post_norm": "post_ffn_norm",
        "next_norm": "next_norm",
        **{name: name for name in (*BESIDE, "out_scale")},
    },
)

MIXERS: Mapping[str, tuple[Link, ...]] = {"attention": (QKV, ATTENTION, OUT), "gated_delta": (QKVZ, DELTA, OUT)}
"""The first half of a layer by its kind. It leaves x times "ffn_norm" quantized on a GPU."""
FEED_FORWARDS: Mapping[str, tuple[Link, ...]] = {"dense": (FFN,), "moe": (MOE,)}
"""The second half."""


def links(mixer: str, feed_forward: str, layer_input: bool = False) -> tuple[Link, ...]:
    """The operations of a layer whose halves are of these kinds, in order; layer_input: it has an input of its own."""
    return MIXERS[mixer] + FEED_FORWARDS[feed_forward] + ((INPUT,) if layer_input else ())
