#!/usr/bin/env python
"""Write a valid GGUF with random weights: how speed is measured for models that cannot be downloaded here.

Sizes and formats are those of the real model; the tokenizer is of its kind and size, but made up, and so the text is
nonsense. Weights are normal with a standard deviation of 1/sqrt(columns), and 1/sqrt(2·layers) of that where a matrix
adds to the residual stream, so that the stream neither dies nor explodes and the logits have a standard deviation of
about 2.6. Norm weights are log-normal; qwen3's K-norm reaches the real model's 96.5 in a channel of every fourth layer.

For speed, 2 million normal values are quantized once for each format and standard deviation, and every matrix draws
whole blocks from that pool at random (of 32 values, or of 256 in super-blocks). So any block is a real quantized
block, the distribution over a matrix is the normal one, and one tensor at a time is in memory.

Example: scripts/make_model.py qwen3-0.6b Q4_0 /tmp/qwen3-0.6b.gguf
"""

import math
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from kernel_templates.formats import FORMATS, get
from kernel_templates.formats.layout import Blocks
from kernel_templates.gated_delta.problem import GatedDelta
from model.architectures import ARCHITECTURES, Architecture
from model.architectures.base import Routing
from model.config import ModelConfig
from model.layer_plan import INPUT_PROJECTION, plan
from model.layer_sizes import LayerSizes, Mixture
from model.rope import Scaling
from model.tokenizer import CONTROL, NORMAL, UNUSED
from model.tokenizers.byte_level_bpe import byte_characters

if TYPE_CHECKING:
    import gguf

HEAD_BITS = 6  # what ggml gives the head at least
POOL_VALUES = 1 << 21
MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
"""Types of files that give some tensors more bits than most; IQ4_XS, called after a format, does too."""
EXPERTS = {"MXFP4_MOE": ("Q8_0", "MXFP4")}
"""Types of files that give experts another format than the rest: both."""
QUANTS = (*FORMATS, *MIXTURES, *EXPERTS)
NARROW = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
"""What ggml's quantizer takes for rows that are no whole super-blocks."""
DOWN = ("down", "shared_down")
K_NORM_PEAK = 96.5
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages %}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)


@dataclass(frozen=True)
class Shape:
    """A model's sizes and the pre-tokenizer that goes with it."""

    config: ModelConfig
    pre: str
    unused: int
    """Tokens of the vocabulary that only fill it up to a round number."""
    names_head_size: bool
    """Whether the file says how large a head is, or leaves it at hidden / heads and says how much of it turns."""


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, tied: bool = True) -> Shape:
    layer = LayerSizes(heads, kv_heads=8, head_dim=128, rope_dim=128, ffn=ffn)
    config = ModelConfig(
        ARCHITECTURES["qwen3"], hidden, (layer,) * layers, vocab=151936, context=40960, norm_eps=1e-6, rope_base=1e6,
        tied=tied, rope_freqs=False,
    )  # fmt: skip
    return Shape(config, "qwen2", unused=290, names_head_size=True)


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, context: int) -> Shape:
    layer = LayerSizes(heads, kv_heads, hidden // heads, hidden // heads, ffn)
    config = ModelConfig(
        ARCHITECTURES["llama"], hidden, (layer,) * layers, vocab, context, norm_eps=1e-5, rope_base=1e5, tied=True,
        rope_freqs=False,
    )  # fmt: skip
    return Shape(config, "smollm", unused=0, names_head_size=False)


def _shape(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocab: int, context: int,
    norm_eps: float, rope_base: float, *, pre: str = "qwen2", window: int = 0, period: int = 0, **rest: Any,
) -> Shape:  # fmt: skip
    """Any architecture, by the sizes in its models' files. period: every so many-th layer has no window."""
    architecture = ARCHITECTURES[name]
    windows = [0 if period and i % period == period - 1 else window for i in range(layers)]
    layer = LayerSizes(heads, kv_heads, head_dim, head_dim, ffn, gate_function=architecture.gate_function)
    sizes = tuple(replace(layer, window=own) for own in windows)
    config = ModelConfig(
        architecture, hidden, sizes, vocab, context, norm_eps, rope_base,
        **{"tied": False, "rope_freqs": False, **rest},
    )  # fmt: skip
    return Shape(config, pre, unused=0, names_head_size=True)


def _gemma3(*sizes: int, window: int, **rest: Any) -> Shape:
    return _shape(
        "gemma3", *sizes, 1e-6, 1e6, tied=True, window=window, period=6, local_rope_base=1e4, **rest
    )  # fmt: skip


def _gemma4_layers(
    local: LayerSizes, layers: int, period: int, shared: int, window: int, layer_input: int, global_kv_heads: int = 0
) -> tuple[LayerSizes, ...]:
    """Global layers, every so many-th, have heads of twice the size, and if global_kv_heads is given, so many of keys,
    which are values too. The last `shared` layers have others' keys and values, and a wider feed-forward network."""
    local = replace(local, scale=1.0, window=window, layer_input=layer_input, out_scale=True)
    of_all = replace(local, window=0, head_dim=2 * local.head_dim, rope_dim=2 * local.rope_dim)
    if global_kv_heads:
        of_all = replace(of_all, kv_heads=global_kv_heads, keys_are_values=True)
    first, made = layers - shared, list[LayerSizes]()
    for i in range(layers):
        sizes = of_all if i % period == period - 1 else local
        if i >= first:
            alike = max(j for j in range(first) if made[j].window == sizes.window)
            sizes = replace(sizes, cache_of=alike, ffn=2 * sizes.ffn)
        made.append(sizes)
    return tuple(made)


def _qwen35(hidden: int, layers: int, heads: int, kv_heads: int, delta_heads: int, ffn: int, tied: bool) -> Shape:
    layer = LayerSizes(heads, kv_heads, head_dim=256, rope_dim=64, ffn=ffn, output_gate=True)
    sizes = _with_deltas((layer,) * layers, GatedDelta(delta_heads, 16, 128, 4), period=4)
    config = ModelConfig(
        ARCHITECTURES["qwen35"], hidden, sizes, vocab=248320, context=262144, norm_eps=1e-6, rope_base=1e7, tied=tied,
        rope_freqs=False,
    )  # fmt: skip
    return Shape(config, "qwen35", unused=243, names_head_size=True)


def _qwen35moe(
    hidden: int, layers: int, heads: int, kv_heads: int, delta_heads: int, ffn: int, experts: int, used: int,
    vocab: int = 248320,
) -> Shape:  # fmt: skip
    """Experts, and the one that every token uses, are of one size."""
    dense = _qwen35(hidden, layers, heads, kv_heads, delta_heads, ffn, tied=False)
    architecture = ARCHITECTURES["qwen35moe"]
    assert architecture.routing is not None
    mixture = _mixture(architecture.routing, experts, used, shared_ffn=ffn)
    sizes = tuple(replace(own, mixture=mixture) for own in dense.config.sizes)
    return replace(dense, config=replace(dense.config, architecture=architecture, sizes=sizes, vocab=vocab))


def _with_deltas(sizes: tuple[LayerSizes, ...], delta: GatedDelta, period: int) -> tuple[LayerSizes, ...]:
    """Gated delta nets in all layers but every `period`-th."""
    return tuple(replace(own, delta=delta) if (i + 1) % period else own for i, own in enumerate(sizes))


def _gemma4(
    hidden: int, layers: int, heads: int, head_dim: int, ffn: int, vocab: int, shared: int, layer_input: int
) -> Shape:
    """Small, with what E2B and E4B have: one key head, every fifth layer global, inputs for each layer."""
    local = LayerSizes(heads, 1, head_dim, head_dim, ffn, gate_function=ARCHITECTURES["gemma4"].gate_function)
    sizes = _gemma4_layers(local, layers, 5, shared, window=512, layer_input=layer_input)
    config = ModelConfig(
        ARCHITECTURES["gemma4"], hidden, sizes, vocab, 131072, 1e-6, 1e6, tied=True, rope_freqs=True,
        local_rope_base=1e4, final_softcap=30.0,
    )  # fmt: skip
    return Shape(config, "qwen2", unused=0, names_head_size=True)


def _gemma4_mixture(
    hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, dense: int, experts: int, used: int,
    vocab: int, window: int, global_kv_heads: int,
) -> Shape:  # fmt: skip
    """As 26B-A4B: every sixth layer is global, its keys are values too; ffn: of experts, dense: of networks."""
    architecture = ARCHITECTURES["gemma4"]
    assert architecture.routing is not None
    mixture = _mixture(architecture.routing, experts, used, shared_ffn=dense)
    local = LayerSizes(
        heads, kv_heads, head_dim, head_dim, ffn, gate_function=architecture.gate_function, mixture=mixture
    )
    sizes = _gemma4_layers(local, layers, 6, 0, window, layer_input=0, global_kv_heads=global_kv_heads)
    config = ModelConfig(
        architecture, hidden, sizes, vocab, 262144, 1e-6, 1e6, tied=True, rope_freqs=True, local_rope_base=1e4,
        final_softcap=30.0,
    )  # fmt: skip
    return Shape(config, "qwen2", unused=0, names_head_size=True)


def tiny(architecture: Architecture, beside: bool = False) -> Shape:
    """Two layers of any architecture, or four where some share a cache, for tests; the first has a window of 8
    positions where it may have one, or a gated delta net where most have. beside: with the mixtures that only some
    models of the architecture have beside their networks."""
    period, (attention, final), routing = architecture.window_period, architecture.softcaps, architecture.routing
    layer = LayerSizes(
        4, 2, 32, 32, 256, softcap=attention, sinks=int(architecture.sinks), gate_function=architecture.gate_function,
        mixture=_mixture(routing, 8, 3, shared_ffn=128) if routing and beside == routing.beside else None,
        output_gate=architecture.output_gate,
    )  # fmt: skip
    windows = (0, 0) if not period else (8, 0) if period == 2 else (8, 8)
    sizes = tuple(replace(layer, window=window) for window in windows)
    if architecture.delta_period is not None:
        sizes = _with_deltas(sizes, GatedDelta(4, 2, 32, 4), period=2)
    if architecture.shared_kv and beside:
        sizes = _gemma4_layers(layer, 2, 2, 0, window=8, layer_input=0, global_kv_heads=1)
    elif architecture.shared_kv:
        sizes = _gemma4_layers(replace(layer, kv_heads=1), 4, 2, 2, window=8, layer_input=32)
    config = ModelConfig(
        architecture, 256, sizes, 512, 256, 1e-6, 1e6, tied=True,
        rope_freqs=False, local_rope_base=(architecture.local_rope_base or 0.0) if period else 0.0, final_softcap=final,
    )  # fmt: skip
    return Shape(config, "qwen2", unused=5, names_head_size=True)


def _mixture(routing: Routing, experts: int, used: int, shared_ffn: int = 0) -> Mixture:
    """shared_ffn: of an expert that every token uses, or of the network beside, where the architecture has one."""
    return Mixture(
        experts, used, routing.function, routing.normalized, bias=routing.bias, beside=routing.beside,
        shared_ffn=shared_ffn if routing.shared or routing.beside else 0, shared_gated=routing.shared,
    )  # fmt: skip


def _qwen3moe(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, experts: int, used: int, vocab: int = 151936
) -> Shape:
    mixture = Mixture(experts, used, "softmax", normalized=True)
    layer = LayerSizes(heads, kv_heads, 128, 128, ffn, mixture=mixture)
    config = ModelConfig(
        ARCHITECTURES["qwen3moe"], hidden, (layer,) * layers, vocab, context=40960, norm_eps=1e-6,
        rope_base=1e6, tied=False, rope_freqs=False,
    )  # fmt: skip
    return Shape(config, "qwen2", unused=290, names_head_size=True)


def _gpt_oss(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, experts: int, vocab: int) -> Shape:
    mixture = Mixture(experts, 4, "softmax_of_chosen", normalized=False, bias=True)
    layer = LayerSizes(heads, kv_heads, 64, 64, ffn, sinks=1, gate_function="swiglu_oai", mixture=mixture)
    yarn = Scaling("yarn", 32.0, 4096, attention_factor=0.1 * math.log(32.0) + 1.0, whole=False)
    config = ModelConfig(
        ARCHITECTURES["gpt-oss"], hidden, tuple(replace(layer, window=128 * (i % 2 == 0)) for i in range(layers)),
        vocab, context=131072, norm_eps=1e-5, rope_base=1.5e5, tied=False, rope_freqs=False, rope_scaling=yarn,
    )  # fmt: skip
    return Shape(config, "gpt-4o", unused=0, names_head_size=True)


SHAPES = {
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288, tied=False),
    "qwen3-30b-a3b": _qwen3moe(2048, 48, 32, 4, 768, 128, 8),
    "qwen3moe-small": _qwen3moe(1024, 16, 16, 4, 384, 64, 8, vocab=32768),
    "gpt-oss-20b": _gpt_oss(2880, 24, 64, 8, 2880, 32, 201088),
    "gpt-oss-small": _gpt_oss(1024, 12, 16, 2, 512, 32, 32768),
    "qwen2.5-7b": _shape("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1e-6, 1e6),
    "llama3.1-8b": _shape(
        "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 1e-5, 5e5, pre="llama-bpe", rope_freqs=True
    ),
    "mistral-7b": _shape("llama", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e-5, 1e6),
    "gemma3-270m": _gemma3(18, 640, 4, 1, 256, 2048, 262144, 32768, window=512),
    "gemma3-1b": _gemma3(26, 1152, 4, 1, 256, 6912, 262144, 32768, window=512),
    "gemma3-4b": _gemma3(34, 2560, 8, 4, 256, 10240, 262144, 131072, window=1024, rope_scaling=Scaling("linear", 8.0)),
    "gemma4-small": _gemma4(768, 15, 8, 256, 3072, 65536, shared=5, layer_input=256),
    "gemma4-26b-a4b": _gemma4_mixture(2816, 30, 16, 8, 256, 704, 2112, 128, 8, 262144, 1024, 2),
    "gemma4-mixture-small": _gemma4_mixture(1024, 12, 8, 4, 128, 256, 768, 64, 8, 32768, 512, 2),
    "phi3-mini": _shape("phi3", 32, 3072, 32, 32, 96, 8192, 32064, 4096, 1e-5, 1e4, window=2047),
    "smollm2-135m": _llama(576, 30, 9, 3, 1536, 49152, 8192),
    "qwen3.5-0.8b": _qwen35(1024, 24, 8, 2, 16, 3584, tied=True),
    "qwen3.5-4b": _qwen35(2560, 32, 16, 4, 32, 9216, tied=True),
    "qwen3.5-9b": _qwen35(4096, 32, 16, 4, 32, 12288, tied=False),
    "qwen3.5-35b-a3b": _qwen35moe(2048, 40, 16, 2, 32, 512, 256, 8),
    "qwen35moe-small": _qwen35moe(1024, 12, 8, 2, 16, 256, 64, 8, vocab=32768),
    "tiny": _llama(64, 2, 4, 2, 128, 512, 256),
    **{f"tiny-{name}": tiny(architecture) for name, architecture in ARCHITECTURES.items()},
    "tiny-gemma4-mixture": tiny(ARCHITECTURES["gemma4"], beside=True),
}


def vocabulary(size: int, unused: int, front: bool, rng: np.random.Generator) -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and token types of a byte-level BPE with word-like merges. `front`: special tokens come first."""
    base = list(byte_characters())
    pieces = [*"etaoinshrdlucmfwygpbvkqxzj"]
    words = ["Ġ", *pieces]
    tokens, merges, known = list(base), [], set(base)
    for pair in (("Ġ", "Ġ"), ("Ċ", "Ċ")):
        tokens.append(pair[0] + pair[1])
        merges.append(" ".join(pair))
    target = size - unused - len(SPECIAL)
    while len(tokens) < target:
        # The third power favours short, early pieces, as a trained BPE does; only the left part may begin with a space.
        for left, right in (rng.random((4096, 2)) ** 3).tolist():
            first, second = words[int(left * len(words))], pieces[int(right * len(pieces))]
            text = first + second
            if len(text) > 10 or text in known:
                continue
            known.add(text)
            tokens.append(text)
            merges.append(f"{first} {second}")
            words.append(text)
            if not text.startswith("Ġ"):
                pieces.append(text)
            if len(tokens) == target:
                break
    types = [NORMAL] * target
    special, filler = list(SPECIAL), [f"[PAD{index}]" for index in range(size - unused, size)]
    tokens = special + tokens if front else tokens + special
    types = [CONTROL] * 3 + types if front else types + [CONTROL] * 3
    return tokens + filler, merges, types + [UNUSED] * unused


def tensor_format(
    shape: tuple[int, ...], quant: str, head: bool = False, place: tuple[str, int] = ("", 0),
    config: ModelConfig | None = None,
) -> str:  # fmt: skip
    """Which format ggml's quantizer would give a tensor in a file of type `quant`, without an importance matrix.

    head: the matrix that gives logits, the embedding where it is that too; place: what the plan calls the tensor, and
    its layer in a model of `config`. From llama.cpp's src/llama-quant.cpp.
    """
    if _is_vector(shape, place[0]) or place[0] == "router":
        return "F32"
    if quant in EXPERTS:
        quant = EXPERTS[quant][len(shape) == 3]
    fmt = get(MIXTURES.get(quant, quant))
    if head and isinstance(fmt.layout, Blocks) and fmt.layout.quants.bits < HEAD_BITS:
        fmt = get("Q6_K")
    elif config is not None:
        fmt = get(_with_more_bits(quant, *place, config) or fmt.name)
    return fmt.name if shape[-1] % fmt.block == 0 else NARROW[fmt.name]


def _is_vector(shape: tuple[int, ...], what: str) -> bool:
    """Whether no product reads a tensor, which the plan calls `what`."""
    return len(shape) == 1 or what == "conv" or what.endswith("_bias")


def _with_more_bits(quant: str, what: str, layer: int, config: ModelConfig) -> str | None:
    """The format of tensors to which a mixture gives more than to the rest. Q, K and V in one tensor count as V."""
    layers = config.layers
    if quant in MIXTURES:
        first, last, third = layer < layers // 8, layer >= 7 * layers // 8, (layer - layers // 8) % 3 == 2
        return "Q6_K" if what in ("v", "qkv", *DOWN) and (first or last or third) else None
    if quant == "IQ4_XS":
        sizes = config.layer(layer)
        grouped, early = sizes.heads // sizes.kv_heads >= 4, layer < layers // 8
        return "Q5_K" if (what == "v" and grouped) or (what in DOWN and early) else None
    return None


class Weights:
    """Random tensors of one model, bytes ready to be written."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator) -> None:
        self._config, self._rng, self._pools = config, rng, {}
        planned = plan(config)
        self._output_norm = planned.output_norm.name
        layers = enumerate(planned.layers)
        self._places = {
            part.name: (what, i) for i, layer in layers for what, t in layer.tensors.items() for part in t.parts
        }
        largest = max(config.vocab, *(sizes.ffn for sizes in config.sizes)) * config.hidden
        self._values = min(POOL_VALUES, -(-largest // 256) * 256)

    def place(self, name: str) -> tuple[str, int]:
        """What the plan calls a tensor of a layer, and the layer."""
        return self._places.get(name, ("", 0))

    def vector(self, name: str, size: int) -> np.ndarray:
        """Norm weights, biases and all else that no product reads, float32 [size]."""
        what, layer = self.place(name)
        if what == "decay":
            weights = -np.exp(self._rng.uniform(-2.0, 2.8, size))
        elif what == "dt_bias":  # steps of 0.001 to 0.1, as Mamba begins with
            weights = np.log(np.expm1(np.exp(self._rng.uniform(-6.9, -2.3, size))))
        elif what == "conv":
            weights = self._rng.normal(0.0, 0.5, size)
        elif what == "shared_router":
            weights = self._rng.normal(0.0, size**-0.5, size)
        elif what.endswith("_bias"):
            weights = self._rng.normal(0.0, 0.3, size)
        elif what == "sinks":
            weights = self._rng.normal(1.0, 1.0, size)
        elif what == "k_norm":
            weights = np.minimum(self._rng.lognormal(0.4, 0.8, size), K_NORM_PEAK / 2)
            if layer % 4 == 0:
                weights[self._rng.integers(size)] = K_NORM_PEAK
        else:
            weights = self._rng.lognormal(0.0, 0.2, size) * (2.5 if name == self._output_norm else 1.0)
            if what == "q_norm" and self._config.architecture.attention_scale:
                weights *= size**-0.5  # nothing else divides the scores
        return weights.astype(np.float32)

    def matrix(self, name: str, shape: tuple[int, ...], form: str) -> np.ndarray:
        """A weight matrix in format `form`, or several behind each other, uint8 [rows, row bytes]."""
        *above, cols = shape
        rows, deviation = math.prod(above), cols**-0.5
        what, layer = self.place(name)
        mixture = self._config.layer(layer).mixture
        if what == "router" and mixture and mixture.beside:  # what it reads has a length of 1
            deviation = 1.5
        if what in ("out", *DOWN, "input_proj"):
            deviation /= (2 * self._config.layers) ** 0.5
        pool, block = self._pool(form, deviation)
        drawn = self._rng.integers(0, len(pool), rows * cols // block, dtype=np.uint32)
        return pool[drawn].view(np.uint8).reshape(rows, -1)

    def _pool(self, form: str, deviation: float) -> tuple[np.ndarray, int]:
        """Quantized blocks as opaque items, and how many values one holds."""
        import torch

        fmt = get(form)
        block = max(fmt.block, 32)  # float formats have no block; draw runs of 32 values as the others do
        key = form, deviation
        if key not in self._pools:
            values = self._rng.standard_normal(self._values, dtype=np.float32) * np.float32(deviation)
            data = fmt.quantize(torch.from_numpy(values)).contiguous().numpy()
            self._pools[key] = data.view(f"V{fmt.row_bytes(block)}")
        return self._pools[key], block


def _describe(writer: "gguf.GGUFWriter", name: str, shape: Shape, quant: str, rng: np.random.Generator) -> None:
    import gguf

    config, add_float, layer = shape.config, writer.add_float32, shape.config.layer(0)
    widest = max(config.sizes, key=lambda sizes: sizes.head_dim)
    writer.add_name(f"{name} with random weights")
    writer.add_file_type(next(t for t in gguf.LlamaFileType if t.name.partition("_")[2].startswith(quant)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    dense = [s.mixture.shared_ffn if s.mixture and s.mixture.beside else s.ffn for s in config.sizes]
    writer.add_feed_forward_length(_one_or_each(dense))
    if (mixture := layer.mixture) is not None:
        writer.add_expert_count(mixture.experts)
        writer.add_expert_used_count(mixture.used)
        writer.add_expert_feed_forward_length(layer.ffn)
        if mixture.shared_ffn and not mixture.beside:
            writer.add_expert_shared_feed_forward_length(mixture.shared_ffn)
    writer.add_head_count(layer.heads)
    writer.add_head_count_kv(_one_or_each([sizes.kv_heads for sizes in config.sizes]))
    writer.add_rope_freq_base(config.rope_base)
    add_float(f"{config.architecture.name}.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_vocab_size(config.vocab)
    if layer.window:
        writer.add_sliding_window(layer.window)
    if delta := next((sizes.delta for sizes in config.sizes if sizes.delta), None):
        writer.add_full_attention_interval(1 + [sizes.delta for sizes in config.sizes].index(None))
        writer.add_ssm_conv_kernel(delta.kernel)
        writer.add_ssm_state_size(delta.head_dim)
        writer.add_ssm_group_count(delta.key_heads)
        writer.add_ssm_time_step_rank(delta.heads)
        writer.add_ssm_inner_size(delta.value_size)
        writer.add_rope_dimension_count(layer.rope_dim)
        writer.add_rope_dimension_sections([layer.rope_dim // 2, 0, 0, 0])
    if layer.softcap:
        writer.add_attn_logit_softcapping(layer.softcap)
    if config.final_softcap:
        writer.add_final_logit_softcapping(config.final_softcap)
    if (scaling := config.rope_scaling) is not None:
        if scaling.original:
            writer.add_rope_scaling_orig_ctx_len(scaling.original)
        if scaling.kind == "longrope":
            writer.add_rope_scaling_attn_factors(scaling.attention_factor)
        else:
            writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
            writer.add_rope_scaling_factor(scaling.factor)
    if shape.names_head_size:
        writer.add_key_length(widest.head_dim)
        writer.add_value_length(widest.head_dim)
    else:
        writer.add_rope_dimension_count(layer.rope_dim)
    if widest.head_dim != layer.head_dim:
        writer.add_key_length_swa(layer.head_dim)
        writer.add_value_length_swa(layer.head_dim)
        writer.add_rope_dimension_count(widest.rope_dim)
        writer.add_rope_dimension_count_swa(layer.rope_dim)
        writer.add_sliding_window_pattern([sizes.window > 0 for sizes in config.sizes])
    if config.architecture.shared_kv:
        writer.add_shared_kv_layers(sum(sizes.cache_of is not None for sizes in config.sizes))
        writer.add_embedding_length_per_layer_input(config.layer_input)
    tokens, merges, types = vocabulary(config.vocab, shape.unused, shape.pre == "smollm", rng)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|im_start|>" if shape.pre == "smollm" else "<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|im_end|>" if shape.pre == "smollm" else "<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _one_or_each(numbers: list[int]) -> int | list[int]:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def make_model(name: str, quant: str, path: Path, seed: int = 0, progress: bool = False) -> None:
    """Write the model `name` (a key of SHAPES) in format `quant` to `path`; the same seed gives the same bytes.

    Raises KeyError for an unknown name or format, OSError when the file cannot be written; never leaves half a file.
    """
    import gguf

    shape, rng = SHAPES[name], np.random.default_rng(seed)
    config = shape.config
    partial_path = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial_path, config.architecture.name)
    try:
        _describe(writer, name, shape, quant, rng)
        planned = plan(config)
        weights = Weights(config, rng)
        tensors = {
            t.name: (t.shape, tensor_format(t.shape, quant, t == planned.output, weights.place(t.name), config))
            if t.name != INPUT_PROJECTION
            else (t.shape, "BF16")  # which ggml's quantizer leaves alone
            for t in planned.tensors()
        }
        for tensor, (dims, form) in tensors.items():
            kind = gguf.GGMLQuantizationType[form]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            byte_dims = (*dims[:-1], dims[-1] // block * size)
            writer.add_tensor_info(tensor, byte_dims, np.dtype(np.uint8), int(np.prod(byte_dims)), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        bar = partial(click.progressbar, file=sys.stderr, label=f"{name} {quant}", hidden=not progress)
        with bar(tensors.items()) as items:
            for tensor, (dims, form) in items:
                if _is_vector(dims, weights.place(tensor)[0]):
                    values = weights.vector(tensor, int(np.prod(dims))).reshape(dims)
                    writer.write_tensor_data(values.view(np.uint8))
                else:
                    writer.write_tensor_data(weights.matrix(tensor, dims, form))
        writer.close()
        os.replace(partial_path, path)
    finally:
        writer.close()
        partial_path.unlink(missing_ok=True)


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("quant", type=click.Choice(list(QUANTS), case_sensitive=False))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same file.")
def main(shape: str, quant: str, out: Path, seed: int) -> None:
    """Write a valid GGUF of SHAPE in format QUANT with random weights to OUT.

    Example: scripts/make_model.py qwen3-0.6b Q4_0 /tmp/qwen3-0.6b.gguf
    """
    try:
        make_model(shape, quant, out, seed, progress=True)
    except OSError as error:
        raise click.UsageError(f"cannot write {out}: {error.strerror or error}; give another path") from None
    click.echo(f"{out}: {shape} {quant}, {out.stat().st_size / 1e6:.1f} MB", err=True)


if __name__ == "__main__":
    main()
