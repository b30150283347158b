"""What a model computes, step by step: the operations of each layer and of its ends, with the file's tensors for each.

An architecture's traits and a model's sizes go in. Tensor names and shapes, kernel problems, both backends' decode
steps and both ways of reading a prompt follow from it. How the operations of a layer are wired says
`kernel_templates.layer.chain`. Tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernel_templates import head
from kernel_templates.layer.chain import CHAIN, Link
from model.layer_traits import LayerTraits
from model.rope import Scaling

if TYPE_CHECKING:
    from model.config import ModelConfig

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
HEAD = Link("head", head.OPERATION, weights={"w": "head"}, buffers={"x": "x", "norm": "output_norm"})


@dataclass(frozen=True)
class Tensor:
    """A tensor that the file must have. pairs: the rows (of a vector: the elements) of each head are ordered for RoPE
    over neighbouring pairs, and kernels want them ordered for RoPE over halves. stored_rows: of the file's tensor where
    this is `shape[0]` rows of it, beginning with `first_row`; 0 where it is all of it."""

    name: str
    shape: tuple[int, ...]
    pairs: bool = False
    first_row: int = 0
    stored_rows: int = 0

    @property
    def parts(self) -> tuple["Tensor", ...]:
        return (self,)

    @property
    def stored(self) -> "Tensor":
        """The tensor as the file has it."""
        return Tensor(self.name, (self.stored_rows, *self.shape[1:]), self.pairs) if self.stored_rows else self


@dataclass(frozen=True)
class Joined:
    """Vectors of the file that kernels read as one, after each other."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts),)


@dataclass(frozen=True)
class Rope:
    """How a layer's heads turn. factors: vectors of the file that frequencies are divided by: none, one, or longrope's
    two, for long contexts and for short ones."""

    base: float
    scaling: Scaling | None
    factors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Step:
    """One operation. weights: its matrices by its own names; vectors: the norms and biases that it reads, by the names
    of buffers in `link.buffers`."""

    link: Link
    weights: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor | Joined]

    @property
    def name(self) -> str:
        return self.link.prefix


@dataclass(frozen=True)
class LayerPlan:
    """tensors: by the names that `Link` has for them in a layer, in the order that files list them."""

    tensors: Mapping[str, Tensor | Joined]
    steps: tuple[Step, ...]
    rope: Rope
    traits: LayerTraits = field(default_factory=LayerTraits)

    @property
    def matrices(self) -> dict[str, Tensor]:
        return {step.link.weights[own]: tensor for step in self.steps for own, tensor in step.weights.items()}

    @property
    def vectors(self) -> dict[str, Tensor | Joined]:
        return {name: tensor for step in self.steps for name, tensor in step.vectors.items()}

    @property
    def first_norm(self) -> str:
        """The name of what the residual stream is multiplied with where the layer first reads it."""
        return self.steps[0].link.buffers["norm"]


@dataclass(frozen=True)
class LayerState:
    """A layer in a backend's memory. packed: matrices as its kernels read them, by the names of steps; buffers: what
    the layer has for itself, norms and its part of the KV cache ("keys", "values"), by the names that links have."""

    plan: LayerPlan
    packed: Mapping[str, tuple[Any, ...]]
    buffers: Mapping[str, Any]


@dataclass(frozen=True)
class ModelPlan:
    """embedding: the table whose rows tokens become, times `embedding_scale`; head: the final norm and the product with
    the vocabulary, which may be the embedding again."""

    embedding: Tensor
    embedding_scale: float
    layers: tuple[LayerPlan, ...]
    head: Step

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """Every distinct one; the first is what layers share that have none of their own."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers))

    @property
    def output_norm(self) -> Tensor | Joined:
        return self.head.vectors["output_norm"]

    @property
    def output(self) -> Tensor:
        return self.head.weights["w"]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is read of the file, as the file has it, each once, in the order that data passes it."""
        factors = [factor for rope in self.ropes for factor in rope.factors]
        layers = [tensor for layer in self.layers for tensor in layer.tensors.values()]
        read = [self.embedding, *factors, *layers, self.output_norm, self.output]
        yield from dict.fromkeys(part.stored for tensor in read for part in tensor.parts)


def plan(config: "ModelConfig") -> ModelPlan:
    embedding = Tensor(EMBEDDING, (config.vocab, config.hidden))
    output = embedding if config.tied else Tensor(OUTPUT, embedding.shape)
    ends = {"head": output, "output_norm": Tensor("output_norm.weight", (config.hidden,))}
    layers = tuple(layer(config, i) for i in range(config.layers))
    return ModelPlan(embedding, config.embedding_scale, layers, _step(HEAD, ends))


def layer(config: "ModelConfig", index: int) -> LayerPlan:
    """The plan of layer `index` alone."""
    tensors = _layer_tensors(config, index)
    steps = tuple(_step(link, tensors) for link in CHAIN)
    used = {name for step in steps for name in (*step.link.weights.values(), *step.vectors)}
    assert used == set(tensors), f"no operation reads {set(tensors) - used}"
    return LayerPlan(tensors, steps, _rope(config, index), _traits(config, index))


def buffer_sizes(config: "ModelConfig") -> dict[str, int]:
    """float32 elements of what the steps of a token pass on, by the names that they have for it."""
    c = config
    return {
        "x": c.hidden,
        "qkv": (c.heads + 2 * c.kv_heads) * c.head_dim,
        "attended": c.heads * c.head_dim,
        "gated": c.ffn,
        "logits": c.vocab,
    }


def _traits(config: "ModelConfig", index: int) -> LayerTraits:
    window = config.window if config.is_local(index) else 0
    gate_function = config.architecture.gate_function
    return LayerTraits(window, config.attention_softcap, config.attention_scale, gate_function)


def _rope(config: "ModelConfig", index: int) -> Rope:
    c = config
    if c.local_rope_base and c.is_local(index):
        return Rope(c.local_rope_base, None, ())
    names = [ROPE_FACTORS] if c.rope_freqs else []
    if c.rope_scaling is not None and c.rope_scaling.kind == "longrope":
        names = [LONG_FACTORS, SHORT_FACTORS]
    return Rope(c.rope_base, c.rope_scaling, tuple(Tensor(name, (c.rope_dim // 2,)) for name in names))


def _layer_tensors(config: "ModelConfig", index: int) -> dict[str, Tensor | Joined]:
    """In the order that llama.cpp's converter writes them."""
    c, traits = config, config.architecture
    queries, keys, pairs = c.heads * c.head_dim, c.kv_heads * c.head_dim, traits.rope == "pairs"

    def tensor(name: str, *shape: int, kind: str = "weight", **rest: Any) -> Tensor:
        return Tensor(f"blk.{index}.{name}.{kind}", shape, **rest)

    def matrices(fused: str, **parts: tuple[str, int, bool]) -> dict[str, Tensor | Joined]:
        """parts: what kernels call each -> its name in the file, its rows, whether they are in pairs."""
        if not traits.fused:
            return {own: tensor(name, rows, c.hidden, pairs=p) for own, (name, rows, p) in parts.items()}
        total, first = sum(rows for _, rows, _ in parts.values()), 0
        made: dict[str, Tensor | Joined] = {}
        for own, (_, rows, p) in parts.items():
            made[own] = tensor(fused, rows, c.hidden, pairs=p, first_row=first, stored_rows=total)
            first += rows
        return made

    qkv = {"q": ("attn_q", queries, pairs), "k": ("attn_k", keys, pairs), "v": ("attn_v", keys, False)}
    tensors: dict[str, Tensor | Joined] = {"attn_norm": tensor("attn_norm", c.hidden)}
    tensors |= matrices("attn_qkv", **qkv)
    if traits.qkv_bias:
        biases = (tensor(name, rows, kind="bias", pairs=p) for name, rows, p in qkv.values())
        tensors["qkv_bias"] = Joined(tuple(biases))
    tensors["out"] = tensor("attn_output", c.hidden, queries)
    tensors["ffn_norm"] = tensor("ffn_norm", c.hidden)
    tensors |= matrices("ffn_up", gate=("ffn_gate", c.ffn, False), up=("ffn_up", c.ffn, False))
    tensors["down"] = tensor("ffn_down", c.hidden, c.ffn)
    if traits.qk_norm:
        tensors["q_norm"] = tensor("attn_q_norm", c.head_dim, pairs=pairs)
        tensors["k_norm"] = tensor("attn_k_norm", c.head_dim, pairs=pairs)
    if traits.post_norm:
        tensors["post_attn_norm"] = tensor("post_attention_norm", c.hidden)
        tensors["post_ffn_norm"] = tensor("post_ffw_norm", c.hidden)
    return tensors


def _step(link: Link, tensors: Mapping[str, Any]) -> Step:
    weights = {own: tensors[name] for own, name in link.weights.items()}
    return Step(link, weights, {name: tensors[name] for name in link.buffers.values() if name in tensors})
