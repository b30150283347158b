"""Choose the next token from logits: greedy, or temperature with top-k and top-p, reproducible by seed
and position.

The order is llama.cpp's: top-k, then top-p on the untempered distribution, then temperature.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import ModelError
from model.gguf_metadata import Metadata

# general.sampling.*, by what is named here, whose other settings need no name of their own -> the value that asks for
# nothing.
LACKING = {"min_p": 0.0, "xtc_probability": 0.0, "penalty_repeat": 1.0, "mirostat": 0}


@dataclass(frozen=True)
class Sampler:
    """Settings of a sampler; `picker()` makes the chooser.

    temperature: 0 is greedy; top_k: keep that many, 0 keeps all; top_p: keep the smallest set of that probability;
    seed: None draws a fresh one. Raises ModelError for a setting out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= sys.float_info.max:  # whole numbers too, which may be larger than any float
            raise ModelError(f"temperature is {self.temperature}; give a number of 0 (greedy) or more")
        if self.top_k != int(self.top_k) or self.top_k < 0:
            raise ModelError(f"top-k is {self.top_k}; give a whole number, 0 to keep every token")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top-p is {self.top_p}; give a number above 0 and at most 1")
        if self.seed is not None and (self.seed != int(self.seed) or self.seed < 0):
            raise ModelError(f"seed is {self.seed}; give a whole number of 0 or more")

    def picker(self) -> "Picker":
        return Picker(self)


@dataclass(frozen=True)
class FileSampling:
    """What a model file asks for under `general.sampling.*`.

    settings: by the name of a field of `Sampler`; lacking: what `Sampler` has not, as "name value".
    """

    settings: Mapping[str, float | int]
    lacking: tuple[str, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "FileSampling":
        """Raises ModelError for a value out of range."""
        keys = Metadata(metadata, "general.sampling.")
        given = {key for key in metadata if key.startswith(keys.prefix)}
        settings: dict[str, float | int] = {}
        if keys.prefix + "temp" in given:
            settings["temperature"] = _round(keys.real("temp", -math.inf, 1e6))
        if keys.prefix + "top_k" in given:
            settings["top_k"] = keys.whole("top_k", -(2**31), 2**31 - 1)
        if keys.prefix + "top_p" in given:
            settings["top_p"] = _round(keys.real("top_p", 0, math.inf))
        # As in llama.cpp: no temperature below 0, and no top-k or top-p where they keep everything.
        settings = {name: min(value, 1.0) if name == "top_p" else max(value, 0) for name, value in settings.items()}
        if settings.get("top_p") == 0:  # the likeliest token alone
            settings |= {"top_p": 1.0, "top_k": 1}
        asked = [(name, keys.real(name, -math.inf, math.inf, none), none) for name, none in LACKING.items()]
        return cls(settings, tuple(f"{name} {_round(value):g}" for name, value, none in asked if value != none))


def _round(value: float) -> float:
    """A float32 as a person wrote it: 0.95, not 0.949999988."""
    return float(f"{value:.6g}")


class Picker:
    """Draws tokens. A random number belongs to (seed, position), whatever was drawn before: two pickers of one seeded
    Sampler draw the same from the same logits at the same position."""

    def __init__(self, settings: Sampler) -> None:
        self.settings = settings
        self._key = np.random.SeedSequence(settings.seed).generate_state(2, np.uint64)

    def pick(self, logits: np.ndarray, position: int) -> int:
        """The token id at `position` from float32 logits [vocab]. -inf means never.

        Raises ModelError when a logit is NaN or +inf, or none is finite: the engine computed garbage.
        """
        if logits.ndim != 1 or logits.size == 0:
            raise ModelError(f"logits have shape {logits.shape}; expected one non-empty row [vocab]")
        best = int(np.argmax(logits))  # numpy's argmax returns the first NaN, so one look at the winner finds it
        if not np.isfinite(logits[best]):
            raise ModelError(
                f"the largest logit is {logits[best]}; the model's numbers overflowed or its file is damaged"
            )
        if self.settings.temperature == 0 or self.settings.top_k == 1:
            return best
        with np.errstate(over="ignore"):  # what lies so far below the best weighs nothing
            ids = self._candidates(logits)
            kept = logits[ids].astype(np.float64)
            weights = np.exp((kept - float(logits[best])) / self.settings.temperature)
        cumulative = np.cumsum(weights)
        drawn = np.searchsorted(cumulative, self._uniform(position) * cumulative[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])

    def _uniform(self, position: int) -> float:
        """At least 0 and less than 1: the top 53 bits of Philox's first word."""
        return (np.random.Philox(key=self._key, counter=position).random_raw() >> 11) * 2.0**-53

    def _candidates(self, logits: np.ndarray) -> np.ndarray:
        """Ids that survive top-k and top-p, most likely first; in id order, to save a sort, if nothing is cut."""
        keep = min(self.settings.top_k or logits.size, logits.size)
        if self.settings.top_p >= 1.0:
            return _largest(logits, keep) if keep < logits.size else np.arange(keep)
        # The nucleus is usually tiny: look at 256 candidates before sorting 150 thousand.
        total = None if keep < logits.size else float(np.exp(logits - logits.max(), dtype=np.float64).sum())
        size = min(256, keep)
        while True:
            ids = _largest(logits, size if total is not None else keep)
            weights = np.exp(logits[ids].astype(np.float64) - float(logits[ids[0]]))
            cumulative = np.cumsum(weights)
            mass = cumulative[-1] if total is None else total
            if cumulative[-1] >= self.settings.top_p * mass or len(ids) == keep:
                return ids[: int(np.searchsorted(cumulative, self.settings.top_p * mass)) + 1]
            size = min(size * 16, keep)


def _largest(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest logits in falling order; ties go to the smaller id, so the order is reproducible."""
    if count < logits.size:
        # A partition may keep any of several logits tied at the border; the smallest ids among them are the rule.
        border = logits[np.argpartition(logits, logits.size - count)[logits.size - count]]
        ids = np.flatnonzero(logits >= border)
    else:
        ids = np.arange(logits.size)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
