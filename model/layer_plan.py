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

if TYPE_CHECKING:
    from model.config import ModelConfig

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
HEAD = Link("head", head.OPERATION, weights={"w": "head"}, buffers={"x": "x", "norm": "output_norm"})


@dataclass(frozen=True)
class Tensor:
    """A tensor that the file must have. pairs: the rows (of a vector: the elements) of each head are ordered for RoPE
    over neighbouring pairs, and kernels want them ordered for RoPE over halves."""

    name: str
    shape: tuple[int, ...]
    pairs: bool = False


@dataclass(frozen=True)
class Step:
    """One operation. weights: its matrices by its own names; vectors: the norms that it reads, by the names of buffers
    in `link.buffers`."""

    link: Link
    weights: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return self.link.prefix


@dataclass(frozen=True)
class LayerPlan:
    """tensors: by the names that `Link` has for them in a layer, in the order that files list them."""

    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    traits: LayerTraits = field(default_factory=LayerTraits)

    @property
    def matrices(self) -> dict[str, Tensor]:
        return {step.link.weights[own]: tensor for step in self.steps for own, tensor in step.weights.items()}

    @property
    def vectors(self) -> dict[str, Tensor]:
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
    """embedding: the table whose rows tokens become; rope_factors: what the file divides RoPE's frequencies by; head:
    the final norm and the product with the vocabulary, which may be the embedding again."""

    embedding: Tensor
    rope_factors: Tensor | None
    layers: tuple[LayerPlan, ...]
    head: Step

    @property
    def output_norm(self) -> Tensor:
        return self.head.vectors["output_norm"]

    @property
    def output(self) -> Tensor:
        return self.head.weights["w"]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is read of the file, each once, in the order that data passes it."""
        yield self.embedding
        if self.rope_factors is not None:
            yield self.rope_factors
        for layer in self.layers:
            yield from layer.tensors.values()
        yield self.output_norm
        if self.output != self.embedding:
            yield self.output


def plan(config: "ModelConfig") -> ModelPlan:
    embedding = Tensor(EMBEDDING, (config.vocab, config.hidden))
    output = embedding if config.tied else Tensor(OUTPUT, embedding.shape)
    ends = {"head": output, "output_norm": Tensor("output_norm.weight", (config.hidden,))}
    return ModelPlan(
        embedding,
        Tensor(ROPE_FACTORS, (config.rope_dim // 2,)) if config.rope_freqs else None,
        tuple(layer(config, i) for i in range(config.layers)),
        _step(HEAD, ends),
    )


def layer(config: "ModelConfig", index: int) -> LayerPlan:
    """The plan of layer `index` alone."""
    tensors = _layer_tensors(config, index)
    steps = tuple(_step(link, tensors) for link in CHAIN)
    used = {name for step in steps for name in (*step.link.weights.values(), *step.vectors)}
    assert used == set(tensors), f"no operation reads {set(tensors) - used}"
    return LayerPlan(tensors, steps)


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


def _layer_tensors(config: "ModelConfig", index: int) -> dict[str, Tensor]:
    c, traits = config, config.architecture
    queries, keys, pairs = c.heads * c.head_dim, c.kv_heads * c.head_dim, traits.rope == "pairs"

    def tensor(name: str, *shape: int, pairs: bool = False) -> Tensor:
        return Tensor(f"blk.{index}.{name}.weight", shape, pairs)

    tensors = {
        "attn_norm": tensor("attn_norm", c.hidden),
        "q": tensor("attn_q", queries, c.hidden, pairs=pairs),
        "k": tensor("attn_k", keys, c.hidden, pairs=pairs),
        "v": tensor("attn_v", keys, c.hidden),
        "out": tensor("attn_output", c.hidden, queries),
        "ffn_norm": tensor("ffn_norm", c.hidden),
        "gate": tensor("ffn_gate", c.ffn, c.hidden),
        "up": tensor("ffn_up", c.ffn, c.hidden),
        "down": tensor("ffn_down", c.hidden, c.ffn),
    }
    if traits.qk_norm:
        tensors["q_norm"] = tensor("attn_q_norm", c.head_dim, pairs=pairs)
        tensors["k_norm"] = tensor("attn_k_norm", c.head_dim, pairs=pairs)
    return tensors


def _step(link: Link, tensors: Mapping[str, Tensor]) -> Step:
    weights = {own: tensors[name] for own, name in link.weights.items()}
    return Step(link, weights, {name: tensors[name] for name in link.buffers.values() if name in tensors})
