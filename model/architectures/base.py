"""What one architecture is: the traits in which decoder-only transformers of GGUF files differ.

A trait is added here when something reads it: `layer_plan` for tensors and their order, `config` for what a file's keys
mean, `reference` for the judge. Sizes are no traits; they are each model's own (`config`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Routing:
    """How a mixture of experts chooses: the words of `kernel_templates.moe.problem.Moe`. shared: every token uses one
    more expert, whose weight is the sigmoid of a gate of its own; beside: the mixture stands beside the dense network
    of its layer, each with norms of its own, and weights are multiplied with numbers of their experts; files without
    experts have the networks alone."""

    function: Literal["softmax", "softmax_of_chosen", "sigmoid"]
    normalized: bool
    bias: bool = False
    shared: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Architecture:
    """name: of "general.architecture", which also begins its metadata keys.

    rope: which elements of a head turn together, the "halves" (i, i + rope_dim / 2) or neighbouring "pairs"
    (2i, 2i + 1), as the file orders them; qk_norm: RMS norm of each query and key head before RoPE; v_norm: of each
    value head, without weights; qkv_bias: added to queries, keys and values; out_bias: to attention's output
    projection; sinks: each head's softmax has one more score, of the file; fused: Q, K and V are the rows of one
    tensor, gate and up those of another; gate_function: of the feed-forward network, "gelu" in its tanh form,
    "swiglu_oai" of mixtures alone; post_norm: RMS norm of what attention and the feed-forward network add to the
    residual stream; scaled_embedding: rows of the embedding times sqrt(hidden); routing: every layer's feed-forward
    network is a mixture of experts that chooses so, or has one beside it.

    window_period: every so many-th layer sees all positions and those between them only the file's window, unless the
    file says which do; 0: all layers have the window, where the file names one; None: such a file is refused.
    window: positions, where the file names none. local_rope_base: RoPE's base in layers with a window, which scaling
    leaves alone, where the file names none; None: all layers turn alike.
    whole_yarn: YaRN's ramp begins and ends at whole pairs.
    softcaps: of attention's scores and of logits where the file names none, 0 for none.
    attention_scale: of scores, where the file names none; 0 for 1 / sqrt(head_dim).
    output_gate: attention's output is multiplied with the sigmoid of a gate, which is projected beside each query;
    delta_period: layers are gated delta nets but for every so many-th, unless the file says which are; None: none is.
    ffn_norm: what files call the norm before the feed-forward network.
    wide_scale_layers: counts of layers of models whose scores are divided by sqrt(hidden / heads), not sqrt(head_dim):
    files do not say.
    keys_as_values: layers that see all positions may have no matrix of values, their keys before the norm being those;
    shared_kv: the last layers may attend over keys and values of earlier ones; layer_inputs: layers may have inputs of
    their own; out_scale: what a layer gives may be multiplied with a number. Each where the file says so.
    """

    name: str
    rope: Literal["halves", "pairs"]
    qk_norm: bool = False
    v_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    sinks: bool = False
    fused: bool = False
    gate_function: Literal["silu", "gelu", "swiglu_oai"] = "silu"
    post_norm: bool = False
    scaled_embedding: bool = False
    whole_yarn: bool = True
    routing: Routing | None = None
    window_period: int | None = None
    window: int = 0
    local_rope_base: float | None = None
    softcaps: tuple[float, float] = (0.0, 0.0)
    attention_scale: float = 0.0
    output_gate: bool = False
    delta_period: int | None = None
    ffn_norm: str = "ffn_norm"
    wide_scale_layers: tuple[int, ...] = ()
    keys_as_values: bool = False
    shared_kv: bool = False
    layer_inputs: bool = False
    out_scale: bool = False
