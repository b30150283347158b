"""Random weights and activations for tests and tuning: never zeros, fresh for each seed, of a trained model's scale."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from kernel_templates import formats, memory
from kernel_templates.lazy import torch
from kernel_templates.operation import Inputs, Weight
from kernel_templates.problem import Problem

MAX_LANES = 128  # the most rows that a tile of any CPU template interleaves; it writes whole tiles of outputs
# Quantizing is slow where scales are searched for, and so is a reference over a vocabulary: more rows repeat these,
# shuffled. A prime, so that no two tiles have the same rows.
_DISTINCT_ROWS = 127

_shapes_only = False


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Within, matrices have a shape and no values (torch's "meta" device): enough to compile for, and quick."""
    global _shapes_only
    before, _shapes_only = _shapes_only, True
    try:
        yield
    finally:
        _shapes_only = before


def weight(rows: int, cols: int, format_name: str, rng: np.random.Generator) -> Weight:
    """A matrix with standard deviation 1/sqrt(cols), so that outputs have about the inputs' scale."""
    if _shapes_only:
        size = formats.get(format_name).row_bytes(cols)
        return Weight(torch.empty((rows, size), dtype=torch.uint8, device="meta"), cols, format_name)
    values = rng.standard_normal((min(rows, _DISTINCT_ROWS), cols), np.float32) / np.float32(np.sqrt(cols))
    raw = formats.get(format_name).quantize(torch.from_numpy(values))
    if rows <= len(raw):
        return Weight(raw, cols, format_name)
    which = torch.from_numpy(rng.integers(0, len(raw), rows))
    return Weight(raw[which], cols, format_name, (raw, which))


def weights(problem: Problem, rng: np.random.Generator) -> dict[str, Weight]:
    """All matrices of a problem by name, drawn in their order."""
    return {m.name: weight(m.rows, m.cols, m.format, rng) for m in problem.matrices}


def vector(size: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [size, rounded up to whole tiles], normal; the padding is zero."""
    out = buffer(size)
    out[:size] = rng.standard_normal(size, np.float32)
    return out


def norm_weight(size: int, rng: np.random.Generator, largest: float = 2.0) -> np.ndarray:
    """float32 [size] of positive norm weights, log-uniform between 0.1 and `largest`."""
    out = buffer(size)
    out[:size] = np.exp(rng.uniform(np.log(0.1), np.log(largest), size)).astype(np.float32)
    return out


def normed_vector(size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What an operation that begins with a norm reads: x and norm float32 [size], eps float32 [1]."""
    return {"x": vector(size, rng), "norm": norm_weight(size, rng), "eps": np.array([1e-6], np.float32)}


def normed_inputs(problem: Problem, hidden: int, written: Mapping[str, int], seed: int) -> Inputs:
    """For an operation that multiplies a normed x [hidden] with its matrices; written: buffers and their elements."""
    rng = np.random.default_rng(seed)
    matrices, read = weights(problem, rng), normed_vector(hidden, rng)
    return Inputs(matrices, read | {name: buffer(size) for name, size in written.items()})


def with_post_norm(inputs: Inputs, size: int, seed: int) -> Inputs:
    """Together with what a norm of the output reads: "post_norm" float32 [size] and "eps" float32 [1]."""
    norm = norm_weight(size, np.random.default_rng(seed + 1))
    return Inputs(inputs.weights, {"eps": np.array([1e-6], np.float32), **inputs.buffers, "post_norm": norm})


def with_out_scale(inputs: Inputs) -> Inputs:
    """Together with what a layer's output is multiplied with, "out_scale" float32 [1]."""
    scale = buffer(1)
    scale[0] = 0.61
    return Inputs(inputs.weights, {**inputs.buffers, "out_scale": scale})


def buffer(size: int) -> np.ndarray:
    """float32 zeros that hold `size` outputs and whatever whole tiles write beyond them."""
    return memory.zeros((-(-size // MAX_LANES) * MAX_LANES,), np.float32)
