"""What the engine asks of a backend: tokens in, tokens or logits out, over a KV cache that the backend keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from kernel_templates.attention.cache import F16
from kernel_templates.lazy import Tensor
from kernel_templates.problem import Problem
from model.errors import ModelError
from model.expert_placement import ExpertPlacement
from model.kernel_choices import Choice
from model.sampling import Sampler
from model.sequences import Sequences
from tuning_db import TuningDB

STEPS_BELOW = 4
"""Fewer new tokens than this go through decode steps: products over so few rows cost more than as many steps."""

More = Callable[[int], bool]
"""Asked before a token is started whether it should be, with how many are started and not yet read."""

Progress = Callable[[int, int], None]
"""Called with the parts of a model that are loaded (its layers, and the head) and with how many there are."""


def always(started: int) -> bool:
    """`More` of a text that is read to its end."""
    return True


@dataclass(frozen=True)
class Settings:
    """How to open a runner. context: positions of the KV cache; db: where winners are looked up, None for defaults;
    index: which device of its kind; threads: of the CPU, None for all cores; nvtx: mark a GPU's
    operations by name, for a profiler that watches; prompt: tokens that the first text will have, whose kernels are
    made ready beside the weights, 0 if that is not known; gpu_memory: bytes that a GPU's part of it may take, None for
    what is free; cache: the format of the KV cache (`kernel_templates.attention.cache`)."""

    context: int
    db: TuningDB | None = None
    index: int = 0
    threads: int | None = None
    progress: Progress = lambda done, of: None
    nvtx: bool = False
    prompt: int = 0
    gpu_memory: int | None = None
    cache: str = F16


class Runner(ABC):
    """One model on one device. It trusts its caller: tokens are in the vocabulary and positions inside the context."""

    choices: Mapping[Problem, Choice]
    experts: ExpertPlacement | None = None
    """Where the experts of a mixture are, if some are not on the GPU."""
    decoder: Any
    """The backend's decode step, into which benchmarks look: `context`; step(token, position) and predict(hidden,
    position), the latter from what the last layer gave, float32 [hidden]. Both give logits, float32 [vocab] where the
    backend computes, valid until the next call."""

    @property
    def steps_below(self) -> int:
        """New tokens that go through decode steps are fewer than this."""
        return STEPS_BELOW

    @property
    def context(self) -> int:
        """Positions that the KV cache holds."""
        return self.decoder.context

    @property
    def taken_in(self) -> int | None:
        """Tokens of the text that layers have a state of, which cannot go back: the next come at this position or at
        0. None for a model whose layers only keep keys and values, of which any beginning can be kept."""
        return None

    def resume(self, same: int) -> int:
        """How many of the first `same` tokens of the last text stay in the cache when another follows that begins with
        them; the cache is then that of these."""
        return same if self.taken_in in (None, same) else 0

    def feed(self, tokens: list[int], first: int) -> None:
        """Bring tokens into the cache at positions first, first + 1, ...; keep what the last predicts for `stream`."""
        if len(tokens) < self.steps_below:
            for i, token in enumerate(tokens):
                self.decoder.step(token, first + i)
        else:
            self.decoder.predict(self._read(tokens, first)[0], first + len(tokens) - 1)

    def logits(self, tokens: list[int], stepwise: bool) -> np.ndarray:
        """float32 [len(tokens), vocab], from position 0; stepwise: through decode steps."""
        rows = self.logit_rows(tokens, stepwise)
        first = next(rows)
        out = np.empty((len(tokens), len(first)), np.float32)
        for i, row in enumerate(chain([first], rows)):
            out[i] = row
        return out

    def logit_rows(self, tokens: list[int], stepwise: bool) -> Iterator[np.ndarray]:
        """As `logits`, row by row; each float32 [vocab] is valid until the next."""
        hidden = None if stepwise else self._read(tokens, 0, every=True)
        for i, token in enumerate(tokens):
            yield self.on_host(self.decoder.step(token, i) if hidden is None else self.decoder.predict(hidden[i], i))

    @abstractmethod
    def stream(self, position: int, count: int, sampler: Sampler, more: More = always) -> Iterator[int]:
        """`count` tokens: one chosen from what was fed, which goes to `position` so that the next is known, and so on.
        Fewer if `more` denies one while none is started: then the last is chosen, but not in the cache.

        When a token comes out, those before it are in the cache. Raises ModelError when logits are not numbers.
        """

    def open_sequences(self, most: int) -> Sequences:
        """A place for up to `most` texts that are decoded together, fewer where a pass has not so many rows, beside the
        text that `feed` and `stream` go on with. Raises ModelError where the backend decodes one at a time."""
        raise ModelError("this device decodes one text at a time; use --device cpu, or -p for each prompt")

    @abstractmethod
    def verify(self, tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        """Feed tokens at positions first, first + 1, ...; the token chosen after each, as `stream` would choose it
        there. May end after the first that is not the token fed next: those behind it are chosen after another text.

        Raises ModelError when logits are not numbers.
        """

    @abstractmethod
    def make_ready(self, tokens: int, first: int, sampler: Sampler) -> bool:
        """Whether `verify` of so many tokens from position `first` on can begin: what it needs once, a GPU's kernels
        and their graph, is begun with where it is missing, and not waited for longer than a few steps."""

    @abstractmethod
    def close(self) -> None:
        """Stop whatever runs; the memory goes with the last reference."""

    @abstractmethod
    def warm_up(self) -> None:
        """Make ready what the first long prompt would wait for; for measurements of later ones."""

    @abstractmethod
    def _read(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        """Process tokens at positions first, first + 1, ...; hidden states float32 [1, hidden] of the last token, or
        [tokens, hidden] of every one, valid until the next call."""

    @abstractmethod
    def on_host(self, logits: Any) -> np.ndarray:
        """What the decoder gave, as numpy reads it."""
