"""The sizes of a model, read from GGUF metadata and checked against the tensors that are really in the file.

Metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A model that would need
something this engine does not compute (biases, experts, rope scaling, sliding windows) is refused by name here, because
running it without would give fluent nonsense.
"""

from dataclasses import dataclass

from kernel_templates import formats
from model import layer_plan
from model.architectures import ARCHITECTURES, Architecture
from model.errors import ModelError, quoted
from model.gguf_file import GGUFFile
from model.gguf_metadata import Metadata, shown


@dataclass(frozen=True)
class ModelConfig:
    """The architecture and the sizes of one decoder-only transformer.

    `tied`: the output matrix is the embedding; `rope_freqs`: the file divides the rope frequencies by
    `rope_freqs.weight` [rope_dim / 2] (llama 3.1 and later).
    """

    architecture: Architecture
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_base: float
    rope_dim: int
    tied: bool
    rope_freqs: bool

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read and check everything; raises ModelError naming the key or tensor that does not fit."""
        metadata = file.metadata
        name = metadata.get("general.architecture")
        architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
        if architecture is None:
            raise ModelError(
                f"architecture {shown(name)} is not supported; use a model of {' or '.join(ARCHITECTURES)}"
            )
        keys = Metadata(metadata, architecture.name + ".")
        _refuse_unsupported(keys)
        embedding = file.tensors.get(layer_plan.EMBEDDING)
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError(
                f"tensor '{layer_plan.EMBEDDING}' is missing or not a matrix; the file is incomplete, get it again"
            )
        hidden = keys.whole("embedding_length", 32, 1 << 16)
        heads = keys.whole("attention.head_count", 1, 1024)
        head_dim = keys.whole("attention.key_length", 2, 1024, hidden // heads)
        if keys.whole("attention.value_length", 2, 1024, hidden // heads) != head_dim:
            raise ModelError("keys and values have different head sizes, which is not supported; use another model")
        config = cls(
            architecture=architecture,
            layers=keys.whole("block_count", 1, 1024),
            hidden=hidden,
            heads=heads,
            kv_heads=keys.whole("attention.head_count_kv", 1, heads, heads),
            head_dim=head_dim,
            ffn=keys.whole("feed_forward_length", 32, 1 << 20),
            vocab=embedding.shape[0],
            context=keys.whole("context_length", 1, 1 << 24),
            norm_eps=keys.real("attention.layer_norm_rms_epsilon", 1e-12, 1e-2),
            rope_base=keys.real("rope.freq_base", 1.0, 1e12, 10000.0),
            rope_dim=keys.whole("rope.dimension_count", 2, head_dim, head_dim),
            tied=layer_plan.OUTPUT not in file.tensors,
            rope_freqs=layer_plan.ROPE_FACTORS in file.tensors,
        )
        _check_sizes(config, keys, Metadata(metadata).texts("tokenizer.ggml.tokens"))
        _check_tensors(config, file)
        return config


def _refuse_unsupported(keys: Metadata) -> None:
    scaling, factor = keys.text("rope.scaling.type", "none"), keys.real("rope.scaling.factor", 0.0, 1e9, 1.0)
    old_factor = keys.real("rope.scale_linear", 0.0, 1e9, 1.0)
    if (scaling != "none" and factor != 1.0) or old_factor != 1.0:
        name = "linear" if scaling == "none" else scaling
        raise ModelError(f"rope scaling {quoted(name)} is not supported; use a model without it")
    if experts := keys.whole("expert_count", 0, 1 << 32, 0):
        raise ModelError(f"'{experts}' experts: mixture models are not supported; use a dense one")
    if keys.whole("attention.sliding_window", 0, 1 << 32, 0) != 0:
        raise ModelError("sliding-window attention is not supported; use a model without it")


def _check_sizes(config: ModelConfig, keys: Metadata, tokens: list[str] | None) -> None:
    for name, value in (("embedding_length", config.hidden), ("feed_forward_length", config.ffn)):
        if value % 32:
            raise ModelError(f"metadata key '{keys.prefix}{name}' is {value}, which is not a multiple of 32")
    if config.heads % config.kv_heads:
        raise ModelError(f"{config.heads} query heads cannot share {config.kv_heads} key-value heads evenly")
    for name, value in (("head size", config.head_dim), ("rope.dimension_count", config.rope_dim)):
        if value % 2:
            raise ModelError(f"the {name} is {value}; rotary embedding needs an even number")
    declared = keys.whole("vocab_size", 1, 1 << 32, config.vocab)
    if declared != config.vocab or (tokens is not None and len(tokens) != config.vocab):
        count = "no" if tokens is None else len(tokens)
        raise ModelError(
            f"vocabulary sizes disagree: {config.vocab} embedding rows, '{declared}' declared, {count} tokens"
        )


def _check_tensors(config: ModelConfig, file: GGUFFile) -> None:
    # A forged layer count must not make us list thousands of expected tensors before the first is missed.
    if config.layers * len(layer_plan.layer(config, 0).matrices) > len(file.tensors):
        raise ModelError(f"{config.layers} layers announced, but the file has only {len(file.tensors)} tensors")
    expected = {tensor.name: tensor.shape for tensor in layer_plan.plan(config).tensors()}
    for name, shape in expected.items():
        info = file.tensors.get(name)
        if info is None:
            raise ModelError(f"tensor '{name}' of shape {list(shape)} is missing; the file is incomplete, get it again")
        if info.shape != shape:
            raise ModelError(f"tensor '{name}' has shape {list(info.shape)}, but the metadata asks for {list(shape)}")
        if len(shape) == 1 and formats.get(info.format_name).quantized:
            raise ModelError(f"tensor '{name}' is stored as {info.format_name}; norm weights must not be quantized")
    for name in file.tensors:
        if name not in expected:
            named = config.architecture.name
            raise ModelError(f"tensor {quoted(name)} is not part of a {named} model this engine computes")
