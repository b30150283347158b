"""What a model computes, step by step: the operations of each layer and of its ends, with the file's tensors for each.

An architecture's traits and a model's sizes go in. Kernel problems, both backends' decode steps and both ways of
reading a prompt follow from it. How the operations of a layer are wired says `kernel_templates.layer.chain`, which
tensors it has `model.layer_tensors`, both by the layer's kind.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel_templates import head, per_layer_inputs
from kernel_templates.layer.chain import Link, links
from model.layer_sizes import LayerSizes
from model.layer_tensors import Joined, Tensor, layer_tensors
from model.rope import Scaling

if TYPE_CHECKING:
    from model.config import ModelConfig

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
INPUT_TABLE, INPUT_PROJECTION = "per_layer_token_embd.weight", "per_layer_model_proj.weight"
INPUT_NORM = "per_layer_proj_norm.weight"
VALUES, OUT_SCALE = "blk.{}.attn_v.weight", "blk.0.layer_output_scale.weight"
"""By which a file says how layers are made."""
LAYER_INPUTS = Link(
    "layer_inputs", per_layer_inputs.OPERATION, weights={"w": "input_projection"},
    buffers={"x": "x", "inputs": "layer_inputs", "projected": "projected_inputs", "norm": "input_norm"},
)  # fmt: skip
HEAD = Link("head", head.OPERATION, weights={"w": "head"}, buffers={"x": "x", "norm": "output_norm"})


@dataclass(frozen=True)
class Rope:
    """How a layer's heads turn, the first `dim` elements of each. factors: vectors of the file that frequencies are
    divided by: none, one, or longrope's two, for long contexts and for short ones."""

    dim: int
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
    """tensors: by the names that `Link` has for them in a layer, in the order that files list them; steps: as the kind
    of layer that `sizes` says is wired."""

    tensors: Mapping[str, Tensor | Joined]
    steps: tuple[Step, ...]
    rope: Rope
    sizes: LayerSizes

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
    the layer has for itself, norms and what it keeps of a text, by the names that links have."""

    plan: LayerPlan
    packed: Mapping[str, tuple[Any, ...]]
    buffers: Mapping[str, Any]


@dataclass(frozen=True)
class LayerInputs:
    """What each layer gets of a token. table: whose rows, times `scale`, are its part of them; step: makes the rest of
    the embedding, and mixes the two."""

    table: Tensor
    scale: float
    step: Step


@dataclass(frozen=True)
class ModelPlan:
    """embedding: the table whose rows tokens become, times `embedding_scale`; inputs: of layers, where they have any;
    head: the final norm and the product with the vocabulary, which may be the embedding again."""

    embedding: Tensor
    embedding_scale: float
    layers: tuple[LayerPlan, ...]
    head: Step
    inputs: LayerInputs | None = None

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
        inputs = self.inputs and (
            self.inputs.table,
            *self.inputs.step.weights.values(),
            *self.inputs.step.vectors.values(),
        )
        read = [self.embedding, *(inputs or ()), *factors, *layers, self.output_norm, self.output]
        yield from dict.fromkeys(part.stored for tensor in read for part in tensor.parts)


def plan(config: "ModelConfig") -> ModelPlan:
    embedding = Tensor(EMBEDDING, (config.vocab, config.hidden))
    output = embedding if config.tied else Tensor(OUTPUT, embedding.shape)
    ends = {"head": output, "output_norm": Tensor("output_norm.weight", (config.hidden,))}
    layers = tuple(layer(config, i) for i in range(config.layers))
    return ModelPlan(embedding, config.embedding_scale, layers, _step(HEAD, ends), _inputs(config))


def _inputs(config: "ModelConfig") -> LayerInputs | None:
    if not config.layer_input:
        return None
    rows = config.layers * config.layer_input
    tensors = {
        "input_projection": Tensor(INPUT_PROJECTION, (rows, config.hidden)),
        "input_norm": Tensor(INPUT_NORM, (config.layer_input,)),
    }
    table = Tensor(INPUT_TABLE, (config.vocab, rows))
    return LayerInputs(table, math.sqrt(config.layer_input), _step(LAYER_INPUTS, tensors))


def unread(config: "ModelConfig") -> set[str]:
    """Tensors that files have and nothing reads: layers that share others' keys and values were trained with some."""
    parts = ("attn_k", "attn_v", "attn_k_norm")
    sharing = [i for i, sizes in enumerate(config.sizes) if sizes.cache_of is not None]
    return {f"blk.{i}.{part}.weight" for i in sharing for part in parts}


def layer(config: "ModelConfig", index: int) -> LayerPlan:
    """The plan of layer `index` alone."""
    tensors, sizes = layer_tensors(config, index), config.layer(index)
    steps = tuple(_step(link, tensors) for link in links(sizes.mixer, sizes.feed_forward, sizes.layer_input > 0))
    used = {name for step in steps for name in (*(step.link.weights[own] for own in step.weights), *step.vectors)}
    assert used == set(tensors), f"no operation reads {set(tensors) - used}"
    return LayerPlan(tensors, steps, _rope(config, sizes), sizes)


def cache_of(config: "ModelConfig", index: int) -> int:
    """The layer whose keys and values layer `index` attends over."""
    of = config.layer(index).cache_of
    return index if of is None else of


def buffer_sizes(config: "ModelConfig") -> dict[str, int]:
    """float32 elements of what the steps of a token pass on, by the names that they have for it: as many as the layer
    that needs most."""
    sizes = config.sizes
    return {
        "x": config.hidden,
        "qkv": max((s.qkv_rows for s in sizes if s.delta is None), default=0),
        "projected": max((s.delta.projected_size for s in sizes if s.delta), default=0),
        "attended": max(s.attended for s in sizes),
        "gated": max(s.gated for s in sizes),
        "logits": config.vocab,
        **_input_sizes(config),
    }


def _input_sizes(config: "ModelConfig") -> dict[str, int]:
    size, rows = config.layer_input, config.layers * config.layer_input
    return {"layer_inputs": rows, "projected_inputs": rows, "raised": size, "input_gated": size} if size else {}


def _rope(config: "ModelConfig", sizes: LayerSizes) -> Rope:
    c, dim = config, sizes.rope_dim
    if c.local_rope_base and sizes.window:
        return Rope(dim, c.local_rope_base, None, ())
    names = [ROPE_FACTORS] if c.rope_freqs else []
    if c.rope_scaling is not None and c.rope_scaling.kind == "longrope":
        names = [LONG_FACTORS, SHORT_FACTORS]
    return Rope(dim, c.rope_base, c.rope_scaling, tuple(Tensor(name, (dim // 2,)) for name in names))


def _step(link: Link, tensors: Mapping[str, Any]) -> Step:
    weights = link.own_weights(tensors)
    return Step(link, weights, {name: tensors[name] for name in link.buffers.values() if name in tensors})
