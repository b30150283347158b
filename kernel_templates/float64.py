"""The pieces that references are made of, in float64: what a kernel's output is judged against."""

import numpy as np

from kernel_templates import formats
from kernel_templates.lazy import torch
from kernel_templates.operation import Weight

CHUNK_ROWS = 16384  # a vocabulary of 150,000 rows in float64 would take a gigabyte


def product(weight: Weight, x: np.ndarray) -> np.ndarray:
    """W x: float64 [rows]."""
    dequantize, vector = formats.get(weight.format).dequantize, torch.from_numpy(np.asarray(x, np.float64))
    raw, which = weight.repeats or (weight.raw, slice(None))
    return torch.cat([dequantize(rows).double() @ vector for rows in raw.split(CHUNK_ROWS)])[which].numpy()


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019)."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float64(eps)) * np.asarray(weight, np.float64)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate pairs (i, i + n) of the first 2n elements of the last axis (Su et al. 2021, halves as in GPT-NeoX)."""
    x, n = np.asarray(x, np.float64), len(cos)
    out = x.copy()
    out[..., :n] = x[..., :n] * cos - x[..., n : 2 * n] * sin
    out[..., n : 2 * n] = x[..., n : 2 * n] * cos + x[..., :n] * sin
    return out


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + e^-x)."""
    return x / (1.0 + np.exp(-np.asarray(x, np.float64)))


def gelu(x: np.ndarray) -> np.ndarray:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016, the approximation)."""
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def soft_cap(x: np.ndarray, cap: float) -> np.ndarray:
    """cap tanh(x / cap); x itself for a cap of 0."""
    return cap * np.tanh(np.asarray(x, np.float64) / cap) if cap else x
