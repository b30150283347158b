"""The sizes of a model, read from GGUF metadata and checked against the tensors that are really in the file.

Metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A model that would need something this engine
does not compute (experts or a window in an architecture that has none) is refused by name here, because running it
without would give fluent nonsense.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kernel_templates import formats
from kernel_templates.gated_delta.problem import GatedDelta
from model import ggml_types, layer_plan
from model.architectures import ARCHITECTURES, Architecture
from model.architectures.base import Routing
from model.errors import ModelError, quoted
from model.gguf_file import GGUFFile
from model.gguf_metadata import Metadata, shown
from model.layer_sizes import LayerSizes, Mixture
from model.rope import Scaling

MOST_EXPERTS = 4096
MOST_EXPERTS_USED = 64
"""By a token: kernels choose them in a loop that is unrolled, whose compile time a forged file must not set."""
SHARED_FFN = "expert_shared_feed_forward_length"
GATING_FUNCTIONS = {"softmax": 1, "sigmoid": 2, "softmax_of_chosen": 3}
"""The numbers of "expert_gating_func", 0 for none said (llama.cpp's `llama_expert_gating_func_type`)."""
IMAGES, SOUNDS = ("v.", "mm."), ("a.",)
"""What the tensors of the parts that see, and hear, begin with."""
MOST_SOFTCAP = 1e3
"""Models have 30 and 50. tanh(x / cap) in float32 has an error of 6e-8, which the cap multiplies."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture and the sizes of one decoder-only transformer.

    `sizes`: of each layer; `tied`: the output matrix is the embedding; `rope_freqs`: the file divides the rope
    frequencies by `rope_freqs.weight` [rope_dim / 2] (llama 3.1 and later). `local_rope_base`: RoPE's in layers with a
    window, which neither scaling nor that tensor touches, 0 for the same as elsewhere; `final_softcap`: of logits, 0
    for none. `left_alone`: in words, parts of the file that a text's next token does not need.
    """

    architecture: Architecture
    hidden: int
    sizes: tuple[LayerSizes, ...]
    vocab: int
    context: int
    norm_eps: float
    rope_base: float
    tied: bool
    rope_freqs: bool
    rope_scaling: Scaling | None = None
    local_rope_base: float = 0.0
    final_softcap: float = 0.0
    left_alone: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return len(self.sizes)

    def layer(self, index: int) -> LayerSizes:
        return self.sizes[index]

    @property
    def layer_input(self) -> int:
        """Elements of a token's own input to each layer, 0 for none."""
        return self.sizes[0].layer_input

    @property
    def most_experts_used(self) -> int:
        """Experts of a token, of the layer that uses most; 0 without mixtures."""
        return max(0 if sizes.mixture is None else sizes.mixture.used for sizes in self.sizes)

    @property
    def embedding_scale(self) -> float:
        """What rows of the embedding are multiplied with."""
        return math.sqrt(self.hidden) if self.architecture.scaled_embedding else 1.0

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read and check everything; raises ModelError naming the key or tensor that does not fit."""
        metadata = file.metadata
        name = metadata.get("general.architecture")
        architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
        if architecture is None or file.unread_types:
            raise ModelError("; ".join(_unsupported(name, architecture, file)))
        keys = Metadata(metadata, architecture.name + ".")
        embedding = file.tensors.get(layer_plan.EMBEDDING)
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError(
                f"tensor '{layer_plan.EMBEDDING}' is missing or not a matrix; the file is incomplete, get it again"
            )
        blocks = keys.whole("block_count", 1, 1024)
        layers = blocks - keys.whole("nextn_predict_layers", 0, architecture.predicts_further * (blocks - 1), 0)
        hidden = keys.whole("embedding_length", 32, 1 << 16)
        heads = keys.whole_of_layers("attention.head_count", layers, 1, 1024)
        head_dim = keys.whole("attention.key_length", 2, 1024, hidden // heads)
        if keys.whole("attention.value_length", 2, 1024, hidden // heads) != head_dim:
            raise ModelError("keys and values have different head sizes, which is not supported; use another model")
        context = keys.whole("context_length", 1, 1 << 24)
        mixture = _mixture(keys, architecture)
        windows = _windows(keys, architecture, layers, context)
        kv_heads = keys.whole_each("attention.head_count_kv", layers, 1, heads, heads)
        ffn = _ffn(keys, layers, mixture)
        common = LayerSizes(
            heads=heads,
            kv_heads=kv_heads[0],
            head_dim=head_dim,
            rope_dim=keys.whole("rope.dimension_count", 2, head_dim, head_dim),
            ffn=ffn[0],
            softcap=keys.real("attn_logit_softcapping", 0.0, MOST_SOFTCAP, architecture.softcaps[0]),
            scale=_attention_scale(keys, architecture, layers, hidden, heads, head_dim),
            sinks=int(architecture.sinks),
            gate_function=architecture.gate_function,
            mixture=mixture,
            output_gate=architecture.output_gate,
            layer_input=_layer_input(keys, architecture),
            out_scale=architecture.out_scale and layer_plan.OUT_SCALE in file.tensors,
        )
        deltas = _deltas(keys, architecture, blocks)[:layers]
        local = _local_sizes(keys, common)
        each = (
            replace(local if window else common, window=window, kv_heads=kv, ffn=width, delta=delta)
            for window, kv, width, delta in zip(windows, kv_heads, ffn, deltas, strict=True)
        )
        beside = _dense_beside(keys, layers, tuple(each))
        sizes = _keys_as_values(architecture, _sharing(keys, architecture, beside), file)
        config = cls(
            architecture=architecture,
            hidden=hidden,
            sizes=sizes,
            vocab=embedding.shape[0],
            context=context,
            norm_eps=keys.real("attention.layer_norm_rms_epsilon", 1e-12, 1e-2),
            rope_base=keys.real("rope.freq_base", 1.5, 1e12, 10000.0),
            tied=layer_plan.OUTPUT not in file.tensors,
            rope_freqs=layer_plan.ROPE_FACTORS in file.tensors,
            rope_scaling=Scaling.from_metadata(
                keys, context, layer_plan.LONG_FACTORS in file.tensors, architecture.whole_yarn
            ),
            local_rope_base=_local_rope_base(keys, architecture) if any(windows) else 0.0,
            final_softcap=keys.real("final_logit_softcapping", 0.0, MOST_SOFTCAP, architecture.softcaps[1]),
            left_alone=_left_alone(file, range(layers, blocks)),
        )
        _check_sizes(config, keys, Metadata(metadata).texts("tokenizer.ggml.tokens"))
        _check_tensors(config, file, blocks)
        return config


def _unsupported(name: object, architecture: Architecture | None, file: GGUFFile) -> Iterator[str]:
    """All that is missing here for a file."""
    if name is None:
        yield "metadata key 'general.architecture' is missing; the file is incomplete, get it again"
    elif architecture is None:
        yield f"architecture {shown(name)} is not supported; use a model of {' or '.join(ARCHITECTURES)}"
    if types := ggml_types.refusal(file.unread_types):
        yield types


def _mixture(keys: Metadata, architecture: Architecture) -> Mixture | None:
    routing = architecture.routing
    if routing is not None and routing.beside and not keys.whole("expert_count", 0, MOST_EXPERTS, 0):
        return None
    if routing is None:
        if experts := keys.whole("expert_count", 0, 1 << 32, 0):
            raise ModelError(f"'{experts}' experts: {architecture.name} models with experts are not supported")
        return None
    experts = keys.whole("expert_count", 1, MOST_EXPERTS)
    used = keys.whole("expert_used_count", 1, min(experts, MOST_EXPERTS_USED))
    _check_routing(keys, routing)
    shared = keys.whole(SHARED_FFN, 32, 1 << 20) if routing.shared else 0
    return Mixture(
        experts, used, routing.function, routing.normalized, bias=routing.bias, shared_ffn=shared,
        shared_gated=routing.shared, beside=routing.beside,
    )  # fmt: skip


def _check_routing(keys: Metadata, routing: Routing) -> None:
    """What a file may also say of its mixtures, where that is not what its architecture computes; without it the same
    tensors give other text."""
    said = {
        "expert_gating_func": (keys.whole("expert_gating_func", 0, 255, 0), (0, GATING_FUNCTIONS[routing.function])),
        "expert_weights_norm": (
            keys.flag("expert_weights_norm", routing.normalized),
            (routing.normalized, routing.function == "softmax_of_chosen"),
        ),
        "expert_weights_scale": (keys.real("expert_weights_scale", 0.0, 1e3, 0.0), (0.0, 1.0)),
        "expert_group_count": (keys.whole("expert_group_count", 0, MOST_EXPERTS, 0), (0, 1)),
        "expert_shared_count": (keys.whole("expert_shared_count", 0, MOST_EXPERTS, 0), (0, int(routing.shared))),
        "leading_dense_block_count": (keys.whole("leading_dense_block_count", 0, 1024, 0), (0,)),
    }
    for key, (value, computed) in said.items():
        if value not in computed:
            raise ModelError(f"metadata key '{keys.prefix}{key}' is {value}, which is not supported; use another model")


def _ffn(keys: Metadata, layers: int, mixture: Mixture | None) -> tuple[int, ...]:
    """Rows of gate and up of each layer. Where a mixture's are not named, the experts of a token share the dense
    network's, as in llama.cpp."""
    if mixture is None:
        return keys.whole_each("feed_forward_length", layers, 32, 1 << 20)
    if mixture.beside:  # the other length is the dense network's
        return (keys.whole_of_layers("expert_feed_forward_length", layers, 32, 1 << 20),) * layers
    own = keys.whole_of_layers("expert_feed_forward_length", layers, 0, 1 << 20, 0)
    own = own or keys.whole_of_layers("feed_forward_length", layers, 32, 1 << 20) // mixture.used
    return (own,) * layers


def _dense_beside(keys: Metadata, layers: int, sizes: tuple[LayerSizes, ...]) -> tuple[LayerSizes, ...]:
    """The dense networks that mixtures stand beside are shared experts, of a size of their own."""
    if (m := sizes[0].mixture) is None or not m.beside:
        return sizes
    widths = keys.whole_each("feed_forward_length", layers, 32, 1 << 20)
    return tuple(replace(s, mixture=replace(m, shared_ffn=ffn)) for s, ffn in zip(sizes, widths, strict=True))


def _windows(keys: Metadata, architecture: Architecture, layers: int, context: int) -> tuple[int, ...]:
    """Each layer's window, at most the context; 0 where it sees all positions."""
    window, period = keys.whole("attention.sliding_window", 0, 1 << 32, architecture.window), architecture.window_period
    if window == 0:
        return (0,) * layers
    if period is None:
        raise ModelError(
            f"sliding-window attention is not supported in {architecture.name} models; use a model without it"
        )
    local = keys.flags("attention.sliding_window_pattern", layers, or_number=True)
    if local is None:
        period = keys.whole("attention.sliding_window_pattern", 0, 1 << 16, period)
        # The last of `period` layers is global. 0: none is; so llama.cpp reads the key too.
        local = tuple(period == 0 or i % period < period - 1 for i in range(layers))
    return tuple(min(window, context) if here else 0 for here in local)


def _local_sizes(keys: Metadata, of_others: LayerSizes) -> LayerSizes:
    """Of layers with a window, whose heads may have another size."""
    size = keys.whole("attention.key_length_swa", 2, 1024, of_others.head_dim)
    if keys.whole("attention.value_length_swa", 2, 1024, size) != size:
        raise ModelError("keys and values have different head sizes, which is not supported; use another model")
    most = min(size, of_others.rope_dim) if size == of_others.head_dim else size
    return replace(of_others, head_dim=size, rope_dim=keys.whole("rope.dimension_count_swa", 2, size, most))


def _layer_input(keys: Metadata, architecture: Architecture) -> int:
    if not architecture.layer_inputs:
        return 0
    name = "embedding_length_per_layer_input"
    size = keys.whole(name, 0, 1 << 16, 0)
    if size % 32:
        raise ModelError(f"metadata key '{keys.prefix}{name}' is {size}, which is not a multiple of 32")
    return size


def _sharing(keys: Metadata, architecture: Architecture, sizes: tuple[LayerSizes, ...]) -> tuple[LayerSizes, ...]:
    """The last layers of some models have no keys and values: they read those of the last layer before them that sees
    as far."""
    count = keys.whole("attention.shared_kv_layers", 0, len(sizes) - 1, 0) if architecture.shared_kv else 0
    first = len(sizes) - count
    last_of = {bool(s.window): i for i, s in enumerate(sizes[:first])}
    found = list(sizes)
    for i, s in enumerate(sizes[first:], first):
        of = last_of.get(bool(s.window))
        if of is None or (sizes[of].kv_heads, sizes[of].head_dim) != (s.kv_heads, s.head_dim):
            raise ModelError(f"layer {i} shares keys and values, but no layer before {first} has such as it needs")
        found[i] = replace(s, cache_of=of)
    return tuple(found)


def _keys_as_values(
    architecture: Architecture, sizes: tuple[LayerSizes, ...], file: GGUFFile
) -> tuple[LayerSizes, ...]:
    """Only the tensors say whether layers that see all positions have values, the first of them for all."""
    own = [i for i, s in enumerate(sizes) if not s.window and s.cache_of is None]
    if not architecture.keys_as_values or not own or layer_plan.VALUES.format(own[0]) in file.tensors:
        return sizes
    return tuple(replace(s, keys_are_values=i in own) for i, s in enumerate(sizes))


def _deltas(keys: Metadata, architecture: Architecture, blocks: int) -> tuple[GatedDelta | None, ...]:
    """The gated delta net of each layer, None where it has attention."""
    if architecture.delta_period is None:
        return (None,) * blocks
    here = keys.flags("attention.recurrent_layers", blocks)
    if here is None:
        period = keys.whole("full_attention_interval", 1, 1024, architecture.delta_period)
        here = tuple((i + 1) % period != 0 for i in range(blocks))
    heads, dim = keys.whole("ssm.time_step_rank", 1, 1024), keys.whole("ssm.state_size", 2, 1024)
    key_heads, size = keys.whole("ssm.group_count", 1, 1024), keys.whole("ssm.inner_size", 2, 1 << 20)
    if size != heads * dim:
        raise ModelError(
            f"metadata key '{keys.prefix}ssm.inner_size' is {size}, not {heads} heads of {dim} elements as keys "
            "have; other sizes of values are not supported"
        )
    if heads % key_heads:
        raise ModelError(f"{heads} value heads cannot share {key_heads} key heads evenly")
    delta = GatedDelta(heads, key_heads, dim, keys.whole("ssm.conv_kernel", 2, 16))
    return tuple(delta if recurrent else None for recurrent in here)


def _left_alone(file: GGUFFile, ahead: range) -> tuple[str, ...]:
    """What a file has beside the network that chooses a text's next token; ahead: blocks that look further."""
    counts = {
        "that see images": sum(name.startswith(IMAGES) for name in file.tensors),
        "that hear": sum(name.startswith(SOUNDS) for name in file.tensors),
        "that predict tokens beyond the next": sum(_is_ahead(name, ahead) for name in file.tensors),
    }
    return tuple(f"{count} tensors {what}" for what, count in counts.items() if count)


def _is_ahead(name: str, ahead: range) -> bool:
    return any(name.startswith(f"blk.{block}.") for block in ahead)


def _local_rope_base(keys: Metadata, architecture: Architecture) -> float:
    return keys.real("rope.freq_base_swa", 0.0, 1e12, architecture.local_rope_base or 0.0)


def _attention_scale(
    keys: Metadata, architecture: Architecture, layers: int, hidden: int, heads: int, head_dim: int
) -> float:
    """0 where it is 1 / sqrt(head_dim)."""
    divisor = hidden // heads if layers in architecture.wide_scale_layers else head_dim
    scale = keys.real("attention.scale", 0.0, 1e3, architecture.attention_scale or divisor**-0.5)
    return 0.0 if scale == head_dim**-0.5 else scale


def _ffn_key(sizes: LayerSizes) -> str:
    return "feed_forward_length" if sizes.mixture is None else "expert_feed_forward_length"


def _check_sizes(config: ModelConfig, keys: Metadata, tokens: list[str] | None) -> None:
    named = [("embedding_length", config.hidden), *((_ffn_key(s), s.ffn) for s in config.sizes)]
    shared = [s.mixture for s in config.sizes if s.mixture]
    named += [("feed_forward_length" if m.beside else SHARED_FFN, m.shared_ffn) for m in shared]
    for name, value in named:
        if value % 32:
            raise ModelError(f"metadata key '{keys.prefix}{name}' is {value}, which is not a multiple of 32")
    for sizes in dict.fromkeys(config.sizes):
        if sizes.heads % sizes.kv_heads:
            raise ModelError(f"{sizes.heads} query heads cannot share {sizes.kv_heads} key-value heads evenly")
        for name, value in (("head size", sizes.head_dim), ("rope.dimension_count", sizes.rope_dim)):
            if value % 2:
                raise ModelError(f"the {name} is {value}; rotary embedding needs an even number")
    declared = keys.whole("vocab_size", 1, 1 << 32, config.vocab)
    if declared != config.vocab or (tokens is not None and len(tokens) != config.vocab):
        count = "no" if tokens is None else len(tokens)
        raise ModelError(
            f"vocabulary sizes disagree: {config.vocab} embedding rows, '{declared}' declared, {count} tokens"
        )


def _gates(layer: layer_plan.LayerPlan) -> Iterator[list[str]]:
    """Matrices that kernels read as one, though each is small."""
    for together in (("beta", "alpha"), ("router", "shared_router")):
        yield [layer.matrices[name].name for name in together if name in layer.matrices]


def _check_tensors(config: ModelConfig, file: GGUFFile, blocks: int) -> None:
    # A forged layer count must not make us list thousands of expected tensors before the first is missed.
    matrices = {tensor.name for tensor in layer_plan.layer(config, 0).matrices.values()}
    if config.layers * len(matrices) > len(file.tensors):
        raise ModelError(f"{config.layers} layers announced, but the file has only {len(file.tensors)} tensors")
    plan = layer_plan.plan(config)
    expected = {tensor.name: tensor.shape for tensor in plan.tensors()}
    products = {tensor.name for layer in plan.layers for tensor in layer.matrices.values()}
    products |= {plan.output.name, plan.embedding.name}
    if plan.inputs:
        products |= {plan.inputs.table.name, *(tensor.name for tensor in plan.inputs.step.weights.values())}
    for name, shape in expected.items():
        info = file.tensors.get(name)
        if info is None:
            raise ModelError(f"tensor '{name}' of shape {list(shape)} is missing; the file is incomplete, get it again")
        # What is a vector to us and in files of llama.cpp's quantizer, its converter writes as a matrix of one row.
        one_row = name in products and len(shape) == 1 and info.shape == (1, *shape)
        if info.shape != shape and not one_row:
            raise ModelError(f"tensor '{name}' has shape {list(info.shape)}, but the metadata asks for {list(shape)}")
        if name not in products and formats.get(info.format_name).quantized:
            raise ModelError(f"tensor '{name}' is stored as {info.format_name}; vectors must not be quantized")
    for index, layer in enumerate(plan.layers):
        for names in _gates(layer):
            gates = {file.tensors[name].format_name for name in names}
            if len(gates) > 1:
                kinds = " and ".join(sorted(gates))
                raise ModelError(f"the gates of layer {index} are stored as {kinds}; use one type")
    known = {*expected, *layer_plan.unread(config)}
    for name in file.tensors:
        if name not in known and not (
            name.startswith((*IMAGES, *SOUNDS)) or _is_ahead(name, range(config.layers, blocks))
        ):
            named = config.architecture.name
            raise ModelError(f"tensor {quoted(name)} is not part of a {named} model this engine computes")
