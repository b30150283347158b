"""How a model's positions turn its heads: RoPE's frequencies, and the ways in which files stretch them.

Sources: linear scaling (https://arxiv.org/abs/2306.15595), YaRN (https://arxiv.org/abs/2309.00071), LongRoPE
(https://arxiv.org/abs/2402.13753). Where those leave a choice it is the one of transformers' modeling_rope_utils.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.errors import ModelError, quoted
from model.gguf_metadata import Metadata


@dataclass(frozen=True)
class Scaling:
    """kind: "linear" divides all frequencies by `factor`; "yarn" only those that turn slowly, with a ramp between
    `beta_fast` and `beta_slow` turns within `original` positions; "longrope" divides by one of two vectors of the file,
    the first where the context is longer than `original`. attention_factor: what cosines and sines are multiplied with.
    whole: yarn's ramp begins and ends at whole pairs, rounded outwards.
    """

    kind: Literal["linear", "yarn", "longrope"]
    factor: float = 1.0
    original: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    whole: bool = True

    @classmethod
    def from_metadata(
        cls, keys: Metadata, context: int, has_factors: bool, whole_yarn: bool = True
    ) -> "Scaling | None":
        """What an architecture's keys say, None for nothing; has_factors: the file holds longrope's two vectors;
        whole_yarn: `whole`, which no key says.

        Raises ModelError for a kind that is not known here.
        """
        # llama.cpp takes a factor without a kind as linear; old files call it scale_linear.
        kind = keys.text("rope.scaling.type", "linear")
        factor = _factor(keys, "rope.scaling.factor") or _factor(keys, "rope.scale_linear") or 1.0
        common = keys.real("rope.scaling.attn_factor", 1e-3, 1e3, 1.0)
        original = keys.whole("rope.scaling.original_context_length", 1, 1 << 24, context)
        if has_factors:
            return cls("longrope", 1.0, original, attention_factor=common)
        if kind == "yarn":
            found = keys.real("rope.scaling.yarn_attn_factor", 1e-3, 1e3, 0.1 * math.log(max(factor, 1.0)) + 1.0)
            fast = keys.real("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0)
            slow = keys.real("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0)
            scaling = cls("yarn", factor, original, fast, slow, found * common, whole_yarn)
        elif kind in ("linear", "none"):
            scaling = cls("linear", factor if kind == "linear" else 1.0, attention_factor=common)
        else:
            raise ModelError(
                f"rope scaling {quoted(kind)} is not supported; use a model with linear, yarn, longrope or none"
            )
        return None if scaling.factor == scaling.attention_factor == 1.0 else scaling


def _factor(keys: Metadata, key: str) -> float:
    """0 where a file gives none, which some say with a 0."""
    return keys.real(key, 0.0, 1e6, 0.0) and keys.real(key, 1e-3, 1e6)


@dataclass(frozen=True)
class Rotation:
    """frequencies: float64 [rope_dim / 2], radians a position; scale: of cosines and sines."""

    frequencies: np.ndarray
    scale: float

    def table(self, positions: np.ndarray) -> np.ndarray:
        """float32 [len(positions), rope_dim]: cosines, then sines. Angles are float64: at position 40960 float32 angles
        would be off by 0.004."""
        angles = np.asarray(positions, np.float64)[:, None] * self.frequencies
        return (np.concatenate([np.cos(angles), np.sin(angles)], 1) * self.scale).astype(np.float32)


def rotation(base: float, dim: int, scaling: Scaling | None, divisors: np.ndarray | None = None) -> Rotation:
    """divisors: float [dim / 2], of the file, where it has any."""
    frequencies = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if divisors is not None:
        frequencies = frequencies / divisors.astype(np.float64)
    if scaling is None:
        return Rotation(frequencies, 1.0)
    if scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.kind == "yarn":
        kept = _kept(base, dim, scaling)
        frequencies = frequencies * (kept + (1 - kept) / scaling.factor)
    return Rotation(frequencies, scaling.attention_factor)


def _kept(base: float, dim: int, scaling: Scaling) -> np.ndarray:
    """YaRN: how much of each frequency stays as it is, float64 [dim / 2] from 0 to 1."""

    def pair(turns: float) -> float:
        """The pair, as a real number, that turns so often within the original context."""
        return dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    ramp = (np.arange(dim // 2) - first) / max(last - first, 0.001)
    return 1 - np.clip(ramp, 0, 1)
