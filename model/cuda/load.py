"""A model's tensors on the GPU: packed matrices, norms, the KV cache, the RoPE table.

Matrices go over one layer at a time, so the host never holds more than one layer's bytes besides the file's mapping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.weights import Planes
from kernel_templates.head import cuda as head_kernels
from kernel_templates.head.problem import Head
from kernel_templates.layer import cuda as layer_kernels
from kernel_templates.layer.problem import Layer
from kernel_templates.operation import Weight
from kernel_templates.space import Config
from model import weights
from model.config import ModelConfig
from model.cuda.out_of_memory import FOR_CONTEXT, FOR_WEIGHTS, room_for
from model.gguf_file import GGUFFile
from model.problems import head_problem, head_tensor, layer_at

# A layer's matrices by the names that the operation `layer` has for them.
MATRICES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output",
    "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


@dataclass(frozen=True)
class LayerState:
    """problem: at context 0, which names none; packed: as the layer's kernels take it, and the same planes by what they
    do, for prefill. Norms are float32; keys, values float16 [kv_heads, capacity, head_dim]."""

    problem: Layer
    packed: tuple[Planes, ...]
    qkv: tuple[Planes, ...]
    out: tuple[Planes, ...]
    gate_up: tuple[Planes, ...]
    down: tuple[Planes, ...]
    attn_norm: Tensor
    ffn_norm: Tensor
    q_norm: Tensor
    k_norm: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Loaded:
    """Everything a token reads. rope: float32 [capacity, rope_dim], cosines then sines."""

    config: ModelConfig
    capacity: int
    layers: tuple[LayerState, ...]
    head: Head
    head_packed: tuple[Planes, ...]
    embedding: Embedding
    output_norm: Tensor
    rope: Tensor


def load(
    file: GGUFFile,
    config: ModelConfig,
    capacity: int,
    configs: Callable[[int], Config],
    head_config: Config,
    device: torch.device,
    on_layer: Callable[[int, int], None],
) -> Loaded:
    """configs(layer): how a layer is packed. Raises ModelError when memory does not suffice."""
    steps = config.layers + 1
    caches = _caches(config, capacity, device)
    rope = rope_table(weights.rope_frequencies(file, config), capacity).to(device)
    layers = []
    for i in range(config.layers):
        with room_for(f"the weights of layer {i + 1} of {config.layers}", FOR_WEIGHTS):
            layers.append(_layer(file, config, i, configs(i), caches[i], device))
        on_layer(i + 1, steps)
    head = head_problem(config, file)
    with room_for("the weights of the head", FOR_WEIGHTS):
        matrix = weights.matrix(file, head_tensor(config))
        head_packed = head_kernels.pack(head, head_config, {"w": matrix}, str(device))
        # Rows are looked up in the file's own bytes, also where the head is made of the same matrix.
        rows = matrix if config.tied else weights.matrix(file, "token_embd.weight")
        embedding = Embedding(rows.raw.to(device), rows.format, rows.cols)
    on_layer(steps, steps)
    output_norm = _vector(file, "output_norm.weight", device)
    return Loaded(config, capacity, tuple(layers), head, head_packed, embedding, output_norm, rope)


def rope_table(frequencies: np.ndarray, capacity: int) -> Tensor:
    """float32 [capacity, rope_dim], from float64 angles: at position 40960 float32 angles would be off by 0.004."""
    angles = np.arange(capacity)[:, None] * frequencies
    return torch.from_numpy(np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32))


def _caches(config: ModelConfig, capacity: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    shape = (config.kv_heads, capacity, config.head_dim)
    size = 4 * config.layers * config.kv_heads * capacity * config.head_dim
    with room_for(f"a KV cache of {capacity} positions, {size / 1e9:.2f} GB", FOR_CONTEXT):
        # Zeros, because a tile may read positions that no token has reached, and 0 times NaN is NaN.
        pair = [torch.zeros(shape, dtype=torch.float16, device=device) for _ in range(2 * config.layers)]
        return list(zip(pair[::2], pair[1::2], strict=True))


def _layer(
    file: GGUFFile, config: ModelConfig, i: int, chosen: Config, cache: tuple[Tensor, Tensor], device: torch.device
) -> LayerState:
    problem = layer_at(config, file, i, 0)
    packed = layer_kernels.pack(problem, chosen, layer_matrices(file, config, i), str(device))
    wide = (config.heads + 2 * config.kv_heads) * config.head_dim
    qkv, out, gate_up, down = _by_rows(packed, (wide, config.hidden, 2 * config.ffn, config.hidden))
    block = f"blk.{i}."
    q_norm, k_norm = (
        _vector(file, f"{block}attn_{side}_norm.weight", device)
        if config.qk_norm
        else torch.ones(config.head_dim, device=device)
        for side in "qk"
    )
    return LayerState(
        problem, packed, qkv, out, gate_up, down,
        _vector(file, block + "attn_norm.weight", device), _vector(file, block + "ffn_norm.weight", device),
        q_norm, k_norm, *cache,
    )  # fmt: skip


def layer_matrices(file: GGUFFile, config: ModelConfig, layer: int) -> dict[str, Weight]:
    """All matrices of a layer, Q and K in halves order."""
    found = weights.layer_matrices(file, config, layer, "norm_qkv_rope")
    rest = {ours: theirs for ours, theirs in MATRICES.items() if ours not in found}
    return found | {ours: weights.matrix(file, f"blk.{layer}.{theirs}.weight") for ours, theirs in rest.items()}


def _by_rows(packed: tuple[Planes, ...], sizes: tuple[int, ...]) -> list[tuple[Planes, ...]]:
    """Packed matrices are in the order data passes them; cut them where the sizes say."""
    ends = [0, *accumulate(p.rows for p in packed)]
    cuts = [ends.index(at) for at in (0, *accumulate(sizes))]
    return [packed[a:b] for a, b in pairwise(cuts)]


def _vector(file: GGUFFile, name: str, device: torch.device) -> Tensor:
    """A norm's weights, float32 [size]."""
    return torch.from_numpy(weights.vector(file, name)[: file.tensors[name].shape[-1]].copy()).to(device)
