"""A model's tensors on the GPU: packed matrices, norms, the KV cache, the RoPE table.

Matrices go over one layer at a time, so the host never holds more than one layer's bytes besides the file's mapping.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernel_templates.attention.cache import F16, head_bytes
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.pages import PagedCache, in_one_piece
from kernel_templates.cuda.weights import Planes, unpack
from kernel_templates.head import cuda as head_kernels
from kernel_templates.head.problem import Head
from kernel_templates.layer import cuda as layer_kernels
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Weight
from kernel_templates.per_layer_inputs import cuda as inputs_kernels
from kernel_templates.per_layer_inputs.problem import PerLayerInputs
from kernel_templates.space import Config
from model import layer_plan, layer_tensors, weights
from model.config import ModelConfig
from model.cuda import delta_states, even_keys
from model.cuda.host_experts import HostMixture
from model.cuda.out_of_memory import FOR_CONTEXT, FOR_WEIGHTS, explain_out_of_memory
from model.gguf_file import GGUFFile
from model.layer_plan import LayerPlan, LayerState, Rope
from model.problems import head_problem, inputs_problem, layer_at
from model.runner import Progress

Keep = Callable[[tuple[Planes, ...]], HostMixture]
"""Takes the matrices of a layer's mixture; all but the experts stay on the device."""


@dataclass(frozen=True)
class CudaLayer(LayerState):
    """problem: the layer as one, at context 0, which names none. Norms are float32 [size]; what attention keeps of a
    text as `LayerCache.buffers`; what a gated delta net keeps as `delta_states`; of a mixture of experts "router"
    float32 [experts, hidden], a shared one's below them, for many rows. host: its experts, if they are not on the GPU;
    `packed` has only their shapes then."""

    problem: LinkedChain
    host: HostMixture | None = None

    @property
    def mixture(self) -> Moe | None:
        """The problem of its feed-forward half, if that is a mixture of experts."""
        found = self.problem.parts().get("moe")
        return found if isinstance(found, Moe) else None

    @property
    def experts(self) -> tuple[Planes, ...]:
        """Of that mixture the matrices of which a token reads only its experts' rows: gate, up and down."""
        return self.packed["moe"][1:4] if self.mixture else ()

    @property
    def planes(self) -> tuple[Planes, ...]:
        """All matrices, as the layer's kernels take them."""
        return tuple(planes for step in self.plan.steps for planes in self.packed[step.name])


@dataclass(frozen=True)
class LoadedInputs:
    """What each layer's input of a token is made of. table: whose rows are the token's part of them; norm: float32
    [size]."""

    problem: PerLayerInputs
    table: Embedding
    packed: tuple[Planes, ...]
    norm: Tensor


@dataclass(frozen=True)
class LayerCache:
    """values: keys and values, [2, kv_heads, capacity, head_dim], float16, or int8 with scales float32 [2, kv_heads,
    capacity]; [2, 0, ...] of a layer that keeps none."""

    values: Tensor
    scales: Tensor | None = None

    @property
    def buffers(self) -> dict[str, Tensor]:
        """By the names that links have for them."""
        found = {"keys": self.values[0], "values": self.values[1]}
        if self.scales is None:
            return found
        return {**found, "key_scales": self.scales[0], "value_scales": self.scales[1]}


@dataclass(frozen=True)
class Loaded:
    """Everything a token reads. ropes: how layers turn heads -> float32 [capacity, rope_dim], cosines then sines;
    cache: of each layer its keys and its values, which may be another's too; inputs: of layers, where they have any.
    memory: bytes of the GPU that all of it may take, None for what is free; form: of the KV cache."""

    config: ModelConfig
    capacity: int
    layers: tuple[CudaLayer, ...]
    head: Head
    head_packed: tuple[Planes, ...]
    embedding: Embedding
    output_norm: Tensor
    ropes: Mapping[Rope, Tensor]
    cache: tuple[LayerCache, ...]
    inputs: LoadedInputs | None = None
    memory: int | None = None
    form: str = F16

    @property
    def pages(self) -> tuple[PagedCache, ...]:
        """The cache as kernels over many rows find it."""
        return in_one_piece([c.values for c in self.cache], [c.scales for c in self.cache])

    @property
    def on_host(self) -> bool:
        """Whether experts of any layer are not on the GPU."""
        return any(layer.host is not None for layer in self.layers)

    @property
    def mixtures(self) -> frozenset[Moe]:
        """Those of its layers that differ."""
        return frozenset(layer.mixture for layer in self.layers if layer.mixture is not None)


def load(
    file: GGUFFile,
    config: ModelConfig,
    capacity: int,
    configs: Callable[[int], Config],
    head_config: Config,
    inputs_config: Config | None,
    device: torch.device,
    progress: Progress,
    keep: Mapping[int, Keep] | None = None,
    memory: int | None = None,
    form: str = F16,
) -> Loaded:
    """configs(layer): how a layer is packed; inputs_config: how what layers' inputs are made with is, where they have
    any; keep: by layer whose experts are not to stay on the device, who keeps them; memory, form: as of `Loaded`. On
    torch's "meta" device everything has its shape and no weight is read.
    Raises ModelError when memory does not suffice."""
    read = weights.shape_of_matrix if device.type == "meta" else weights.matrix
    pack = _once_a_shape(layer_kernels.pack) if device.type == "meta" else layer_kernels.pack
    plan, count = layer_plan.plan(config), config.layers + 1
    cache = _cache(config, capacity, device, form)
    positions = np.arange(capacity)
    tables = {rope: weights.rope_rotation(file, rope, capacity).table(positions) for rope in plan.ropes}
    ropes = {rope: torch.from_numpy(table).to(device) for rope, table in tables.items()}
    keep, layers = keep or {}, {}
    # Experts that leave are packed on the device too: first, while there is room for them.
    for done, i in enumerate(sorted(range(config.layers), key=lambda i: i not in keep)):
        layer = plan.layers[i]
        with explain_out_of_memory(f"the weights of layer {i + 1} of {config.layers}", FOR_WEIGHTS):
            problem = layer_at(config, file, i, 0, form)
            matrices = weights.matrices(file, layer.matrices, read)
            # No name for what is packed: it would stay on the device while the next layer is.
            layers[i] = _layer(
                file, layer, problem, pack(problem, configs(i), matrices, str(device)), cache[i], ropes, device,
                keep.get(i), _factors(file, plan.layers[layer_plan.cache_of(config, i)], form, device),
            )  # fmt: skip
        progress(done + 1, count)
    head = head_problem(config, file)
    with explain_out_of_memory("the weights of the head", FOR_WEIGHTS):
        matrix = read(file, plan.output)
        head_packed = head_kernels.pack(head, head_config, {"w": matrix}, str(device))
        # Rows are looked up in the file's own bytes, also where the head is made of the same matrix.
        rows = matrix if config.tied else read(file, plan.embedding)
        embedding = Embedding(rows.raw.to(device), rows.format, rows.cols, plan.embedding_scale)
    progress(count, count)
    output_norm = vector(file, plan.output_norm, device)
    inputs = _inputs(file, config, plan.inputs, inputs_config, read, device)
    in_order = tuple(layers[i] for i in range(config.layers))
    return Loaded(
        config, capacity, in_order, head, head_packed, embedding, output_norm, ropes, cache, inputs, memory, form
    )  # fmt: skip


def _inputs(
    file: GGUFFile, config: ModelConfig, plan: layer_plan.LayerInputs | None, packing: Config | None,
    read: Callable[[GGUFFile, layer_tensors.Tensor], Weight], device: torch.device,
) -> LoadedInputs | None:  # fmt: skip
    problem = inputs_problem(config, file)
    if plan is None or problem is None:
        return None
    with explain_out_of_memory("the embeddings for each layer", FOR_WEIGHTS):
        rows, matrices = read(file, plan.table), weights.matrices(file, plan.step.weights, read)
        table = Embedding(rows.raw.to(device), rows.format, rows.cols, plan.scale)
        packed = inputs_kernels.pack(problem, packing, matrices, str(device))
    return LoadedInputs(problem, table, packed, vector(file, plan.step.vectors["input_norm"], device))


def _once_a_shape(pack: Callable) -> Callable:
    """`pack` once for all layers that are alike: what has no values is the same for each."""
    made: dict[tuple[LinkedChain, Config], tuple[Planes, ...]] = {}

    def packed(problem: LinkedChain, config: Config, matrices: Mapping[str, Weight], device: str) -> tuple[Planes, ...]:
        key = problem, config
        if key not in made:
            made[key] = pack(problem, config, matrices, device)
        return made[key]

    return packed


def cached_heads(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Of each layer, the heads whose keys and values it keeps, and their size."""
    return tuple((0 if sizes.delta else sizes.own_kv_heads, sizes.head_dim) for sizes in config.sizes)


def cache_bytes(config: ModelConfig, capacity: int, form: str = F16) -> int:
    """Bytes of the keys and values of so many positions."""
    return sum(2 * heads * capacity * head_bytes(head_dim, form) for heads, head_dim in cached_heads(config))


def _factors(file: GGUFFile, keeps: LayerPlan, form: str, device: torch.device) -> Tensor | None:
    """As of `even_keys`, of the layer whose keys are attended over; None where they are float16 or not normed."""
    if form == F16 or "k_norm" not in keeps.vectors:
        return None
    return even_keys.factors(vector(file, keeps.vectors["k_norm"], device), keeps.sizes.head_dim, keeps.sizes.rope_dim)


def _cache(config: ModelConfig, capacity: int, device: torch.device, form: str) -> tuple[LayerCache, ...]:
    shapes = [(2, heads, capacity, head_dim) for heads, head_dim in cached_heads(config)]
    elements = [math.prod(shape) for shape in shapes]
    size = f"{cache_bytes(config, capacity, form) / 1e9:.2f} GB"
    with explain_out_of_memory(f"a KV cache of {capacity} positions, {size}", FOR_CONTEXT):
        # Zeros, because a tile may read positions that no token has reached, and 0 times NaN is NaN.
        whole = torch.zeros(sum(elements), dtype=torch.float16 if form == F16 else torch.int8, device=device)
        scales = None if form == F16 else [torch.zeros(shape[:-1], device=device) for shape in shapes]
    values = (part.view(shape) for part, shape in zip(whole.split(elements), shapes, strict=True))
    parts = [LayerCache(part, None if scales is None else scales[i]) for i, part in enumerate(values)]
    return tuple(parts[layer_plan.cache_of(config, i)] for i in range(config.layers))


def _layer(
    file: GGUFFile, plan: LayerPlan, problem: LinkedChain, packed: tuple[Planes, ...],
    cache: LayerCache, ropes: Mapping[Rope, Tensor], device: torch.device,
    keep: Keep | None, factors: Tensor | None,
) -> CudaLayer:  # fmt: skip
    own = {name: vector(file, tensor, device) for name, tensor in plan.vectors.items()}
    if plan.sizes.delta:
        own |= delta_states.allocate(plan.sizes.delta, 1, device)
    else:
        own |= {**cache.buffers, "rope": ropes[plan.rope]}
        if factors is not None:
            own |= even_keys.evened(own, factors)
    by_part, host = layer_kernels.packed_by_part(problem, packed), None
    if "moe" in by_part:
        own["router"] = unpack(by_part["moe"][0])
        if keep is not None:
            host = keep(by_part["moe"])
            by_part["moe"] = host.without_values
    return CudaLayer(plan, by_part, own, problem, host)


def vector(file: GGUFFile, tensor: layer_tensors.Tensor | layer_tensors.Joined, device: torch.device) -> Tensor:
    """What no product reads, such as a norm's weights or a bias, float32 [size]."""
    return torch.from_numpy(weights.vector(file, tensor)[: tensor.elements].copy()).to(device)
