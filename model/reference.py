"""The judge of every other path: a transformer's forward pass in plain float32 torch, over dequantized weights.

Written from the architectures' definitions (Llama: https://arxiv.org/abs/2302.13971; Qwen3 adds an RMS norm of each
query and key head before RoPE) and from GGUF's conventions. It shares the file reader, the configuration and the
formats with the engine, and none of its arithmetic, packing, caching or row orders. It is slow and quantizes nothing.
One matrix at a time is expanded, so a model of any size takes the memory of its largest layer matrix.
"""

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from kernel_templates import formats
from model.config import ModelConfig
from model.gguf_file import GGUFFile, open_gguf

_HEAD_ROWS = 8192
"""Rows of the output matrix expanded at a time; vocabularies are wide and one logit needs no other."""


def reference_logits(source: str | os.PathLike[str] | GGUFFile, tokens: list[int]) -> Tensor:
    """float32 [len(tokens), vocab]: the prediction after each of `tokens`, the first at position 0.

    source: a GGUF file or its path. Raises ModelError for a file the engine would refuse, ValueError for no tokens or a
    token outside the vocabulary.
    """
    file = source if isinstance(source, GGUFFile) else open_gguf(Path(source))
    config = ModelConfig.from_gguf(file)
    if not tokens or not all(0 <= token < config.vocab for token in tokens):
        raise ValueError(f"give at least one token, each from 0 to {config.vocab - 1}")
    angles = _angles(file, config, len(tokens))
    x = _rows(file, "token_embd.weight", torch.tensor(tokens))
    for layer in range(config.layers):
        block = f"blk.{layer}."
        x = x + _attention(file, config, block, _norm(x, _vector(file, block + "attn_norm"), config), angles)
        x = x + _feed_forward(file, block, _norm(x, _vector(file, block + "ffn_norm"), config))
    x = _norm(x, _vector(file, "output_norm"), config)
    head = "token_embd.weight" if config.tied else "output.weight"
    chunks = torch.arange(config.vocab).split(_HEAD_ROWS)
    return torch.cat([x @ _rows(file, head, chunk).T for chunk in chunks], 1)


def _rows(file: GGUFFile, name: str, rows: Tensor) -> Tensor:
    """float32 [len(rows), columns]: some rows of a matrix."""
    return formats.get(file.tensors[name].format_name).dequantize(torch.from_numpy(file.raw(name)[rows.numpy()]))


def _matrix(file: GGUFFile, name: str) -> Tensor:
    """float32 [rows, columns]."""
    return _rows(file, name + ".weight", torch.arange(file.tensors[name + ".weight"].shape[0]))


def _vector(file: GGUFFile, name: str) -> Tensor:
    """float32 [size]."""
    return _rows(file, name + ".weight", torch.arange(1)).reshape(-1)  # a vector is stored as one row


def _norm(x: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def _angles(file: GGUFFile, config: ModelConfig, count: int) -> Tensor:
    """float64 [count, rope_dim / 2]: position · base^(-2i / rope_dim), divided by the file's factors if it has any."""
    exponents = torch.arange(0, config.rope_dim, 2, dtype=torch.float64) / config.rope_dim
    frequencies = torch.exp(-math.log(config.rope_base) * exponents)
    if config.rope_freqs:
        frequencies = frequencies / _vector(file, "rope_freqs").double()
    return torch.outer(torch.arange(count, dtype=torch.float64), frequencies)


def _rope(x: Tensor, angles: Tensor, halves: bool) -> Tensor:
    """Turn each pair of x [tokens, heads, head_dim] by its angle; what lies past `rope_dim` stays as it is.

    A pair is (i, i + rope_dim / 2) where `halves`, else the neighbours (2i, 2i + 1), as GGUF stores llama's Q and K.
    """
    half = angles.shape[1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    pairs = turned.unflatten(-1, (2, half)).transpose(-1, -2) if halves else turned.unflatten(-1, (half, 2))
    rotation = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]
    pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * rotation)
    turned = pairs.transpose(-1, -2).flatten(-2) if halves else pairs.flatten(-2)
    return torch.cat([turned, rest], -1)


def _attention(file: GGUFFile, config: ModelConfig, block: str, x: Tensor, angles: Tensor) -> Tensor:
    """Causal grouped-query attention with its output projection; x float32 [tokens, hidden], already normed."""
    q, k, v = ((x @ _matrix(file, f"{block}attn_{n}").T).unflatten(-1, (-1, config.head_dim)) for n in "qkv")
    if config.architecture.qk_norm:
        q = _norm(q, _vector(file, block + "attn_q_norm"), config)
        k = _norm(k, _vector(file, block + "attn_k_norm"), config)
    halves = config.architecture.rope == "halves"
    q, k = _rope(q, angles, halves), _rope(k, angles, halves)
    group = config.heads // config.kv_heads
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    out = []
    for head in range(config.heads):  # head by head: the scores of one are [tokens, tokens]
        scores = q[:, head] @ k[:, head // group].T / math.sqrt(config.head_dim)
        out.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, head // group])
    return torch.cat(out, -1) @ _matrix(file, block + "attn_output").T


def _feed_forward(file: GGUFFile, block: str, x: Tensor) -> Tensor:
    """down · (silu(gate · x) * up · x); x float32 [tokens, hidden], already normed."""
    gate, up = x @ _matrix(file, block + "ffn_gate").T, x @ _matrix(file, block + "ffn_up").T
    return (gate * gate.sigmoid() * up) @ _matrix(file, block + "ffn_down").T
