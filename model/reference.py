"""The judge of every other path: a transformer's forward pass in plain float32 torch, over dequantized weights.

Written from the architectures' definitions (model/architectures names the papers) and from GGUF's conventions, held
against transformers' logits by tests/model/test_transformers.py. It shares the file reader, the configuration and the
formats with the engine, and none of its arithmetic, packing, caching or row orders. It is slow and quantizes nothing.
One matrix at a time is expanded, so a model of any size takes the memory of its largest layer matrix.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kernel_templates import formats
from kernel_templates.gated_delta.problem import GatedDelta
from model.config import ModelConfig
from model.gguf_file import GGUFFile, open_gguf
from model.layer_sizes import LayerSizes, Mixture

_HEAD_ROWS = 8192
"""Rows of the output matrix expanded at a time; vocabularies are wide and one logit needs no other."""


@dataclass(frozen=True)
class LayerTrace:
    """What the operations of a layer read and write, float32, for every token.

    before, middle, after: the residual stream [tokens, hidden] before the layer, after its mixer and after the
    feed-forward network; raw: queries (with their gates), keys and values as projected, biases added, [tokens, rows]
    each; q, k, v: [tokens, heads, head_dim] as attention, or the delta rule, takes them, normed and turned; attended
    [tokens, heads * head_dim]: before the output projection; router: a mixture's logits [tokens, experts]. Rows of
    queries and keys are in the file's order.
    """

    before: Tensor
    raw: tuple[Tensor, Tensor, Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    middle: Tensor
    router: Tensor | None
    after: Tensor


Watch = Callable[[int, LayerTrace], None]
"""Called with each layer's number and its trace, as soon as the layer is through."""


def reference_logits(
    source: str | os.PathLike[str] | GGUFFile, tokens: list[int], context: int | None = None
) -> Tensor:
    """float32 [len(tokens), vocab]: the prediction after each of `tokens`, the first at position 0.

    source: a GGUF file or its path; context: positions that there may be, by which some models choose how they turn
    heads, as many as tokens where it is None. Raises ModelError for a file the engine would refuse, ValueError for no
    tokens or a token outside the vocabulary.
    """
    file = source if isinstance(source, GGUFFile) else open_gguf(Path(source))
    return reference_head(file, reference_hidden(file, tokens, context))


def reference_hidden(
    file: GGUFFile, tokens: list[int], context: int | None = None, watch: Watch = lambda layer, trace: None
) -> Tensor:
    """float32 [len(tokens), hidden]: what the last layer gives for each token. Arguments and errors as of
    `reference_logits`."""
    config = ModelConfig.from_gguf(file)
    if not tokens or not all(0 <= token < config.vocab for token in tokens):
        raise ValueError(f"give at least one token, each from 0 to {config.vocab - 1}")
    positions = torch.arange(len(tokens), dtype=torch.float64)
    turns = {sizes: _turns(file, config, sizes, context or len(tokens)) for sizes in dict.fromkeys(config.sizes)}
    x = _rows(file, "token_embd.weight", torch.tensor(tokens))
    if config.architecture.scaled_embedding:
        x = x * math.sqrt(config.hidden)
    inputs = _layer_inputs(file, config, tokens, x) if config.layer_input else None
    kept: list[tuple[Tensor, Tensor]] = []
    for layer in range(config.layers):
        block, sizes = f"blk.{layer}.", config.layer(layer)
        frequencies, size = turns[sizes]
        turn = torch.polar(torch.full((), size, dtype=torch.float64), torch.outer(positions, frequencies))
        before, normed = x, _norm(x, _vector(file, block + "attn_norm"), config)
        if sizes.delta:
            raw, q, k, v, attended = _gated_delta(file, config, sizes.delta, block, normed)
            y = attended @ _matrix(file, block + "ssm_out").T
        else:
            if sizes.cache_of is None:
                raw = _queries_keys_values(file, config, sizes, block, normed)
                q, k, v = _heads(file, config, sizes, block, raw, turn)
            else:
                none = normed.new_empty(len(normed), 0)
                raw = (normed @ _matrix(file, block + "attn_q").T, none, none)
                q, (k, v) = _queries(file, config, sizes, block, raw[0], turn), kept[sizes.cache_of]
            attended = _attention(sizes, q, k, v, _vector(file, block + "attn_sinks") if sizes.sinks else None)
            if sizes.output_gate:
                attended = attended * raw[0].unflatten(-1, (sizes.heads, 2, -1))[:, :, 1].flatten(1).sigmoid()
            y = attended @ _matrix(file, block + "attn_output").T
            if config.architecture.out_bias:
                y = y + _vector(file, block + "attn_output", "bias")
        kept.append((k, v))
        middle = x + (_norm(y, _vector(file, block + "post_attention_norm"), config) if _post(config) else y)
        router = _router(file, config, sizes, block, middle)
        y = _feed_forward(file, config, sizes, block, middle, router)
        x = middle + (_norm(y, _vector(file, block + "post_ffw_norm"), config) if _post(config) else y)
        if inputs is not None:
            y = (_gelu(x @ _matrix(file, block + "inp_gate").T) * inputs[layer]) @ _matrix(file, block + "proj").T
            x = x + _norm(y, _vector(file, block + "post_norm"), config)
        if sizes.out_scale:
            x = x * _vector(file, block + "layer_output_scale")
        watch(layer, LayerTrace(before, raw, q, k, v, attended, middle, router, x))
    return x


def reference_head(file: GGUFFile, hidden: Tensor) -> Tensor:
    """float32 [tokens, vocab]: logits of what the last layer gave, float32 [tokens, hidden]."""
    config = ModelConfig.from_gguf(file)
    x = _norm(hidden, _vector(file, "output_norm"), config)
    head = "token_embd.weight" if config.tied else "output.weight"
    logits = torch.empty(len(x), config.vocab)
    for first in range(0, config.vocab, _HEAD_ROWS):
        rows = torch.arange(first, min(first + _HEAD_ROWS, config.vocab))
        logits[:, first : first + len(rows)] = x @ _rows(file, head, rows).T
    return _capped(logits, config.final_softcap)


def _layer_inputs(file: GGUFFile, config: ModelConfig, tokens: list[int], x: Tensor) -> Tensor:
    """float32 [layers, tokens, layer_input]: what each layer gets of each token, half of it by the token's number, half
    by its embedding x [tokens, hidden]."""
    size = config.layer_input
    named = _rows(file, "per_layer_token_embd.weight", torch.tensor(tokens)) * math.sqrt(size)
    projected = (x @ _matrix(file, "per_layer_model_proj").T / math.sqrt(config.hidden)).unflatten(-1, (-1, size))
    normed = _norm(projected, _vector(file, "per_layer_proj_norm"), config)
    return ((normed + named.unflatten(-1, (-1, size))) / math.sqrt(2)).transpose(0, 1)


def _post(config: ModelConfig) -> bool:
    return config.architecture.post_norm


def _capped(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap) if cap else x


def _rows(file: GGUFFile, name: str, rows: Tensor) -> Tensor:
    """float32 [len(rows), columns]: some rows of a matrix."""
    return formats.get(file.tensors[name].format_name).dequantize(torch.from_numpy(file.raw(name)[rows.numpy()]))


def _matrix(file: GGUFFile, name: str) -> Tensor:
    """float32 [rows, columns]."""
    return _rows(file, name + ".weight", torch.arange(file.tensors[name + ".weight"].shape[0]))


def _vector(file: GGUFFile, name: str, kind: str = "weight") -> Tensor:
    """float32 [size]."""
    return _rows(file, f"{name}.{kind}", torch.arange(1)).reshape(-1)  # a vector is stored as one row


def _norm(x: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def _turns(file: GGUFFile, config: ModelConfig, sizes: LayerSizes, context: int) -> tuple[Tensor, float]:
    """Radians a position of each pair, float64 [rope_dim / 2], and what turned pairs are stretched by."""
    own_base = sizes.window > 0 and config.local_rope_base > 0
    base, n, scaling = config.rope_base, sizes.rope_dim, config.rope_scaling
    pairs = torch.arange(n // 2, dtype=torch.float64)
    if own_base:
        return config.local_rope_base ** (-2 * pairs / n), 1.0
    frequencies = base ** (-2 * pairs / n)
    if config.rope_freqs:
        frequencies = frequencies / _vector(file, "rope_freqs").double()
    if scaling is None:
        return frequencies, 1.0
    if scaling.kind == "longrope":
        length = "long" if context > scaling.original else "short"
        frequencies = frequencies / _vector(file, f"rope_factors_{length}").double()
    elif scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    else:  # yarn; models differ in whether its ends are rounded outwards to whole pairs
        turns = [scaling.beta_fast, scaling.beta_slow]
        ends = [n / 2 * math.log(scaling.original / (2 * math.pi * t), base) for t in turns]
        if config.architecture.whole_yarn:
            ends = [math.floor(ends[0]), math.ceil(ends[1])]
        low, high = max(ends[0], 0), min(ends[1], n - 1)
        slow = ((pairs - low) / max(high - low, 1e-3)).clamp(0, 1)
        frequencies = frequencies * (1 - slow) + frequencies / scaling.factor * slow
    return frequencies, scaling.attention_factor


def _rope(x: Tensor, turn: Tensor, halves: bool) -> Tensor:
    """Multiply each pair of x [tokens, heads, head_dim], as a complex number, with `turn` complex [tokens,
    rope_dim / 2]; what lies past `rope_dim` stays as it is.

    A pair is (i, i + rope_dim / 2) where `halves`, else the neighbours (2i, 2i + 1), as GGUF stores llama's Q and K.
    """
    half = turn.shape[1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    pairs = turned.unflatten(-1, (2, half)).transpose(-1, -2) if halves else turned.unflatten(-1, (half, 2))
    rotation = turn.to(torch.complex64)[:, None]
    pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * rotation)
    turned = pairs.transpose(-1, -2).flatten(-2) if halves else pairs.flatten(-2)
    return torch.cat([turned, rest], -1)


def _heads(
    file: GGUFFile, config: ModelConfig, sizes: LayerSizes, block: str, raw: tuple[Tensor, Tensor, Tensor], turn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as attention takes them, float32 [tokens, heads, head_dim] each."""
    k, v = (part.unflatten(-1, (-1, sizes.head_dim)) for part in raw[1:])
    if config.architecture.qk_norm:
        k = _norm(k, _vector(file, block + "attn_k_norm"), config)
    if config.architecture.v_norm:
        v = _norm(v, torch.ones(sizes.head_dim), config)
    halves = config.architecture.rope == "halves"
    return _queries(file, config, sizes, block, raw[0], turn), _rope(k, turn, halves), v


def _queries(file: GGUFFile, config: ModelConfig, sizes: LayerSizes, block: str, raw: Tensor, turn: Tensor) -> Tensor:
    """As of `_heads`."""
    q = raw.unflatten(-1, (-1, sizes.head_dim))
    q = q[:, :: 1 + sizes.output_gate]  # a gate follows each
    if config.architecture.qk_norm:
        q = _norm(q, _vector(file, block + "attn_q_norm"), config)
    return _rope(q, turn, config.architecture.rope == "halves")


def _attention(sizes: LayerSizes, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None) -> Tensor:
    """Causal grouped-query attention, float32 [tokens, heads * head_dim]. A window is of positions that a token sees,
    itself among them, 0 for all before it. sinks [heads]: a score of each head that every token sees and that has no
    value."""
    group = sizes.heads // sizes.kv_heads
    scale = sizes.scale or 1 / math.sqrt(sizes.head_dim)
    unseen = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    if sizes.window:
        unseen |= torch.ones_like(unseen).tril(-sizes.window)
    out = []
    for head in range(sizes.heads):  # head by head: the scores of one are [tokens, tokens]
        scores = _capped(q[:, head] @ k[:, head // group].T * scale, sizes.softcap).masked_fill(unseen, -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks[head].expand(len(q), 1)], -1)
        out.append(scores.softmax(-1)[:, : len(q)] @ v[:, head // group])
    return torch.cat(out, -1)


def _gated_delta(
    file: GGUFFile, config: ModelConfig, delta: GatedDelta, block: str, x: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """`raw`, `q`, `k`, `v` and `attended` of `LayerTrace`; x: float32 [tokens, hidden], already normed.

    The recurrence token by token, with a state of [heads, head_dim of k, head_dim of v] as the paper writes it. Value
    head h has key head h mod key_heads: llama.cpp's converter orders them so.
    """
    mixed = x @ _matrix(file, block + "attn_qkv").T
    sizes = [delta.key_size, delta.key_size, delta.value_size]
    raw = mixed.split(sizes, -1)
    taps = _matrix(file, block + "ssm_conv1d")[:, None]
    before = torch.nn.functional.pad(mixed.T, (delta.kernel - 1, 0))
    mixed = torch.nn.functional.silu(torch.nn.functional.conv1d(before, taps, groups=len(taps))).T
    q, k, v = (part.unflatten(-1, (-1, delta.head_dim)) for part in mixed.split(sizes, -1))
    q, k = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + config.norm_eps) for part in (q, k))
    q, k = (part.repeat(1, delta.heads // delta.key_heads, 1) for part in (q, k))
    q = q / math.sqrt(delta.head_dim)
    beta = (x @ _matrix(file, block + "ssm_beta").T).sigmoid()
    alpha = x @ _matrix(file, block + "ssm_alpha").T + _vector(file, block + "ssm_dt", "bias")
    decay = _rows(file, block + "ssm_a", torch.arange(1)).reshape(-1)  # the only name without a kind
    kept = torch.exp(decay * torch.nn.functional.softplus(alpha))
    state, recalled = torch.zeros(delta.heads, delta.head_dim, delta.head_dim), torch.empty_like(v)
    for t in range(len(x)):
        state = state * kept[t, :, None, None]
        learned = (v[t] - torch.einsum("hkv,hk->hv", state, k[t])) * beta[t, :, None]
        state = state + k[t, :, :, None] * learned[:, None]
        recalled[t] = torch.einsum("hkv,hk->hv", state, q[t])
    z = (x @ _matrix(file, block + "attn_gate").T).unflatten(-1, (delta.heads, -1))
    gated = _norm(recalled, _vector(file, block + "ssm_norm"), config) * torch.nn.functional.silu(z)
    return raw, q, k, v, gated.flatten(1)


def _queries_keys_values(
    file: GGUFFile, config: ModelConfig, sizes: LayerSizes, block: str, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """float32 [tokens, rows] each; x: [tokens, hidden], already normed."""
    if config.architecture.fused:
        rows = [heads * sizes.head_dim for heads in (sizes.heads, sizes.kv_heads, sizes.kv_heads)]
        made = list((x @ _matrix(file, block + "attn_qkv").T).split(rows, -1))
    else:
        names = "qkk" if sizes.keys_are_values else "qkv"
        made = [x @ _matrix(file, f"{block}attn_{n}").T for n in names]
    if config.architecture.qkv_bias:
        made = [y + _vector(file, f"{block}attn_{n}", "bias") for y, n in zip(made, "qkv", strict=True)]
    q, k, v = made
    return q, k, v


def _feed_forward(
    file: GGUFFile, config: ModelConfig, sizes: LayerSizes, block: str, x: Tensor, router: Tensor | None
) -> Tensor:
    """float32 [tokens, hidden]; x: the residual stream, float32 [tokens, hidden]; router: as of `_router`."""
    normed = _norm(x, _vector(file, block + config.architecture.ffn_norm), config)
    mixture = sizes.mixture
    if mixture is None or router is None:
        return _dense(file, config, block, normed)
    if not mixture.beside:
        return _mixture(file, config, mixture, block, normed, router)
    own = _norm(x, _vector(file, block + "pre_ffw_norm_2"), config)
    parts = _dense(file, config, block, normed), _mixture(file, config, mixture, block, own, router)
    first, second = (_norm(y, _vector(file, f"{block}post_ffw_norm_{i}"), config) for i, y in enumerate(parts, 1))
    return first + second


def _router(file: GGUFFile, config: ModelConfig, sizes: LayerSizes, block: str, x: Tensor) -> Tensor | None:
    """A mixture's logits, float32 [tokens, experts], None where there is none; x: the residual stream, float32 [tokens,
    hidden]."""
    mixture = sizes.mixture
    if mixture is None:
        return None
    if mixture.beside:
        normed = _norm(x, _vector(file, block + "ffn_gate_inp", "scale"), config) / math.sqrt(config.hidden)
    else:
        normed = _norm(x, _vector(file, block + config.architecture.ffn_norm), config)
    logits = normed @ _matrix(file, block + "ffn_gate_inp").T
    return logits + _vector(file, block + "ffn_gate_inp", "bias") if mixture.bias else logits


def _mixture(file: GGUFFile, config: ModelConfig, mixture: Mixture, block: str, x: Tensor, logits: Tensor) -> Tensor:
    """Of each token the sum over the experts with its largest logits, times their weights. x: float32 [tokens, hidden],
    already normed."""
    chosen = logits.sort(dim=-1, descending=True, stable=True).indices[:, : mixture.used]
    if mixture.routing == "sigmoid":
        weights = logits.sigmoid().gather(-1, chosen)
    elif mixture.routing == "softmax":
        weights = logits.softmax(-1).gather(-1, chosen)
    else:
        weights = logits.gather(-1, chosen).softmax(-1)
    if mixture.normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    if mixture.beside:
        weights = weights * _vector(file, block + "ffn_down_exps", "scale")[chosen]
    y = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        tokens, place = (chosen == expert).nonzero(as_tuple=True)
        names = ("gate_up",) if mixture.beside else ("gate", "up")
        read = [_by_expert(file, mixture, f"{block}ffn_{name}_exps", expert, x[tokens]) for name in names]
        gate, up = torch.cat(read, -1).chunk(2, -1)
        made = _by_expert(file, mixture, block + "ffn_down_exps", expert, _gated(config, gate, up))
        y[tokens] += weights[tokens, place, None] * mixture.scale * made
    return y + _shared_expert(file, config, block, x) if mixture.shared_ffn and not mixture.beside else y


def _shared_expert(file: GGUFFile, config: ModelConfig, block: str, x: Tensor) -> Tensor:
    """What the expert that every token uses makes of it, times the sigmoid of its gate."""
    gate, up = (x @ _matrix(file, f"{block}ffn_{name}_shexp").T for name in ("gate", "up"))
    share = (x @ _vector(file, block + "ffn_gate_inp_shexp")).sigmoid()  # one row
    return share[:, None] * (_gated(config, gate, up) @ _matrix(file, block + "ffn_down_shexp").T)


def _by_expert(file: GGUFFile, mixture: Mixture, name: str, expert: int, x: Tensor) -> Tensor:
    """float32 [tokens, rows]: by one of the matrices that a tensor [experts, rows, columns] is, with its bias."""
    rows = file.tensors[name + ".weight"].shape[1]
    y = x @ _rows(file, name + ".weight", torch.arange(expert * rows, (expert + 1) * rows)).T
    return y + _rows(file, name + ".bias", torch.arange(expert, expert + 1)) if mixture.bias else y


def _dense(file: GGUFFile, config: ModelConfig, block: str, x: Tensor) -> Tensor:
    """down · (g(gate · x) * up · x)."""
    up = x @ _matrix(file, block + "ffn_up").T
    if config.architecture.fused:
        gate, up = up.chunk(2, -1)
    else:
        gate = x @ _matrix(file, block + "ffn_gate").T
    return _gated(config, gate, up) @ _matrix(file, block + "ffn_down").T


def _gated(config: ModelConfig, gate: Tensor, up: Tensor) -> Tensor:
    if config.architecture.gate_function == "swiglu_oai":
        gate, up = gate.clamp(max=7), up.clamp(-7, 7)
        return gate * (1.702 * gate).sigmoid() * (up + 1)
    return (_gelu(gate) if config.architecture.gate_function == "gelu" else gate * gate.sigmoid()) * up


def _gelu(x: Tensor) -> Tensor:
    """In its tanh form."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
