"""Choose the next token from logits: greedy, or temperature with top-k and top-p, reproducible by seed.

The order is llama.cpp's: top-k, then top-p on the untempered distribution, then temperature.
"""

import math
from dataclasses import dataclass

import numpy as np

from model.errors import ModelError


@dataclass(frozen=True)
class Sampler:
    """Settings of a sampler; `picker()` makes the stateful chooser.

    temperature: 0 is greedy; top_k: keep that many, 0 keeps all; top_p: keep the smallest set of that probability;
    seed: None draws a fresh one. Raises ModelError for a setting out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ModelError(f"temperature is {self.temperature}; give a number of 0 (greedy) or more")
        if self.top_k != int(self.top_k) or self.top_k < 0:
            raise ModelError(f"top-k is {self.top_k}; give a whole number, 0 to keep every token")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top-p is {self.top_p}; give a number above 0 and at most 1")
        if self.seed is not None and (self.seed != int(self.seed) or self.seed < 0):
            raise ModelError(f"seed is {self.seed}; give a whole number of 0 or more")

    def picker(self) -> "Picker":
        return Picker(self)


class Picker:
    """Draws tokens one after the other; two pickers of one seeded Sampler draw the same from the same logits."""

    def __init__(self, settings: Sampler) -> None:
        self.settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))

    def pick(self, logits: np.ndarray) -> int:
        """The next token id from float32 logits [vocab]. -inf means never.

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
        ids = self._candidates(logits)
        kept = logits[ids].astype(np.float64)
        weights = np.exp((kept - float(logits[best])) / self.settings.temperature)
        cumulative = np.cumsum(weights)
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(drawn, len(ids) - 1)])

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
