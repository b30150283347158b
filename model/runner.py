"""What the engine asks of a backend: tokens in, tokens or logits out, over a KV cache that the backend keeps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kernel_templates.problem import Problem
from model.kernel_choices import Choice
from model.sampling import Sampler
from tuning_db import TuningDB

STEPS_BELOW = 4
"""Fewer new tokens than this go through decode steps: products over so few rows cost more than as many steps."""


@dataclass(frozen=True)
class Settings:
    """How to open a runner. context: positions of the KV cache; db: where winners are looked up, None for defaults;
    index: which device of its kind; threads: of the CPU, None for all cores; nvtx: mark a GPU's
    operations by name, for a profiler that watches."""

    context: int
    db: TuningDB | None = None
    index: int = 0
    threads: int | None = None
    on_layer: Callable[[int, int], None] = lambda done, of: None
    nvtx: bool = False


class Runner(Protocol):
    """One model on one device. It trusts its caller: tokens are in the vocabulary and positions inside the context."""

    choices: Mapping[Problem, Choice]
    decoder: Any
    """The backend's own decode step; benchmarks look inside."""
    prefill: Any

    @property
    def context(self) -> int:
        """Positions that the KV cache holds."""

    def feed(self, tokens: list[int], first: int) -> None:
        """Bring tokens into the cache at positions first, first + 1, ...; keep what the last predicts for `stream`."""

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        """`count` tokens: one chosen from what was fed, which goes to `position` so that the next is known, and so on.

        When a token comes out, those before it are in the cache. Raises ModelError when logits are not numbers.
        """

    def logits(self, tokens: list[int], stepwise: bool) -> np.ndarray:
        """float32 [len(tokens), vocab], from position 0; stepwise: through decode steps."""

    def close(self) -> None:
        """Stop whatever runs."""
