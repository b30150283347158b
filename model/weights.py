"""From tensors of the file to what kernels are given: matrices, norms, and RoPE in one convention.

GGUF stores llama's Q and K so that RoPE turns neighbouring rows; kernels turn the halves of a head. Reordering the rows
at load is lossless and changes no score, because q and k are reordered alike.
"""

import numpy as np
import torch

from kernel_templates import formats, random_inputs
from kernel_templates.operation import Weight
from model.config import ModelConfig
from model.gguf_file import GGUFFile

# The operations' names of a layer's matrices.
MATRICES = {
    "norm_qkv_rope": {"q": "attn_q", "k": "attn_k", "v": "attn_v"},
    "attention": {},
    "matvec": {"w": "attn_output"},
    "ffn": {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"},
}


def matrix(file: GGUFFile, name: str) -> Weight:
    """A matrix as the file has it, copied out of the mapping."""
    info = file.tensors[name]
    return Weight(torch.from_numpy(np.array(file.raw(name))), info.shape[-1], info.format_name)


def vector(file: GGUFFile, name: str) -> np.ndarray:
    """A one-dimensional tensor as float32, padded like every kernel buffer."""
    info = file.tensors[name]
    values = formats.get(info.format_name).dequantize(torch.from_numpy(np.array(file.raw(name))))
    out = random_inputs.buffer(info.shape[-1])
    out[: info.shape[-1]] = values.reshape(-1).numpy()
    return out


def layer_matrices(file: GGUFFile, config: ModelConfig, layer: int, op: str) -> dict[str, Weight]:
    """The matrices of one operation of one layer, by the operation's names for them."""
    found = {ours: matrix(file, f"blk.{layer}.{theirs}.weight") for ours, theirs in MATRICES[op].items()}
    if op == "norm_qkv_rope" and not config.neox_rope:
        for name in ("q", "k"):
            w = found[name]
            found[name] = Weight(w.raw[halves_order(w.rows, config)], w.cols, w.format)
    return found


def halves_order(rows: int, config: ModelConfig) -> torch.Tensor:
    """int64 [rows]: for each row in halves order, where the file has it. Rows past `rope_dim` of a head stay."""
    head = torch.arange(config.head_dim)
    pairs = torch.arange(config.rope_dim).reshape(-1, 2)  # the file turns (2i, 2i + 1)
    head[: config.rope_dim] = pairs.T.reshape(-1)
    return (torch.arange(0, rows, config.head_dim)[:, None] + head).reshape(-1)


def rope_frequencies(file: GGUFFile, config: ModelConfig) -> np.ndarray:
    """float64 [rope_dim / 2]: radians a position."""
    frequencies = config.rope_base ** (-np.arange(0, config.rope_dim, 2, dtype=np.float64) / config.rope_dim)
    if config.rope_freqs:
        factors = vector(file, "rope_freqs.weight")[: len(frequencies)].astype(np.float64)
        frequencies = frequencies / factors
    return frequencies
