"""From tensors of the file to what kernels are given: matrices, norms, and RoPE in one convention.

GGUF stores llama's Q and K so that RoPE turns neighbouring rows; kernels turn the halves of a head. Reordering the rows
at load is lossless and changes no score, because q and k are reordered alike.
"""

from collections.abc import Mapping

import numpy as np

from kernel_templates import formats, random_inputs
from kernel_templates.formats.layout import Floats
from kernel_templates.lazy import torch
from kernel_templates.operation import Weight
from model.config import ModelConfig
from model.gguf_file import GGUFFile
from model.layer_plan import Tensor


def matrix(file: GGUFFile, config: ModelConfig, tensor: Tensor) -> Weight:
    """A matrix as kernels want it, copied out of the mapping: rows are in the file's own bytes."""
    info = file.tensors[tensor.name]
    raw = file.copied(tensor.name)
    if tensor.pairs:
        raw = raw[halves_order(len(raw), config)]
    return Weight(torch.from_numpy(raw), info.shape[-1], info.format_name)


def matrices(file: GGUFFile, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    """Several of them, under the same names."""
    return {name: matrix(file, config, tensor) for name, tensor in tensors.items()}


def vector(file: GGUFFile, config: ModelConfig, tensor: Tensor) -> np.ndarray:
    """A one-dimensional tensor as float32, padded like every kernel buffer."""
    info, (size,) = file.tensors[tensor.name], tensor.shape
    layout = formats.get(info.format_name).layout
    assert isinstance(layout, Floats), "the model's configuration refuses others"
    values = layout.numbers(file.copied(tensor.name)).reshape(-1)
    out = random_inputs.buffer(size)
    out[:size] = values[halves_order(size, config)] if tensor.pairs else values
    return out


def halves_order(rows: int, config: ModelConfig) -> np.ndarray:
    """int64 [rows]: for each row in halves order, where the file has it. Rows past `rope_dim` of a head stay."""
    head = np.arange(config.head_dim)
    pairs = np.arange(config.rope_dim).reshape(-1, 2)  # the file turns (2i, 2i + 1)
    head[: config.rope_dim] = pairs.T.reshape(-1)
    return (np.arange(0, rows, config.head_dim)[:, None] + head).reshape(-1)


def rope_frequencies(file: GGUFFile, config: ModelConfig, factors: Tensor | None) -> np.ndarray:
    """float64 [rope_dim / 2]: radians a position; factors: the plan's, which the frequencies are divided by."""
    frequencies = config.rope_base ** (-np.arange(0, config.rope_dim, 2, dtype=np.float64) / config.rope_dim)
    if factors is not None:
        frequencies = frequencies / vector(file, config, factors)[: len(frequencies)].astype(np.float64)
    return frequencies
