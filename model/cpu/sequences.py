"""Several texts at once on the CPU: each with a KV cache of its own, all through the decoder's packed weights.

A cache is address space for every position that was promised; memory comes with the positions that are written, 64 at
a time. A step is one pass over a row of each text, which reads the weights once for all; a text that is there alone
runs the decode graph.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernel_templates import memory
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_choice import ThreadChoice
from model.cpu import text_state
from model.cpu.forward import Caches
from model.errors import ModelError
from model.runner import STEPS_BELOW
from model.sampling import Picker, Sampler
from model.sequences import BROKEN, Sequences

if TYPE_CHECKING:
    from model.cpu.runner import CpuRunner

SHARE = 0.75
"""Of the memory that is free before the first text joins, what caches may take; the rest is for prompts and others."""


@dataclass
class _Text:
    """chosen: the newest token, which goes into the cache when the one after it is wanted; position: where to;
    promised: bytes of the whole cache; place: its number in a pass; graph: its decode steps alone."""

    graph: Graph
    place: int
    picker: Picker
    position: int
    promised: int
    chosen: int = BROKEN
    sent: bool = False


class CpuSequences(Sequences):
    """Steps are done when `send` returns."""

    ahead = 1

    def __init__(self, runner: "CpuRunner", most: int, limit: int | None = None):
        """limit: bytes that all caches together may take; None: a share of what is free when there is none."""
        self._runner, self._decoder = runner, runner.decoder
        self.most, self.context = min(most, runner.forward.most), runner.context  # a step is one pass
        self._threads = ThreadChoice(self._decoder.threads.most, self._decoder.threads.watch)
        self._given, self._limit = limit, 0
        self._texts: dict[int, _Text] = {}
        self._steps: deque[dict[int, int]] = deque()
        self._joined = self._promised = 0

    def join(self, prompt: Sequence[int], tokens: int, sampler: Sampler) -> int | None:
        positions = min(len(prompt) + tokens, self.context)
        promised = self._bytes(positions)
        if not self._texts:
            self._limit = int(SHARE * memory.available()) if self._given is None else self._given
        if promised > self._limit:
            raise ModelError(
                f"a text of {positions} tokens needs {promised / 1e6:,.1f} MB of KV cache, and there are "
                f"{self._limit / 1e6:,.1f}; ask for fewer tokens, give a shorter prompt or free memory"
            )
        if len(self._texts) >= self.most or self._promised + promised > self._limit:
            return None
        states = text_state.allocate(self._decoder.config.sizes, positions)
        if (place := self._runner.forward.admit(states)) is None:
            return None
        text, number = _Text(self._decoder.over(states), place, sampler.picker(), len(prompt), promised), self._joined
        self._texts[number] = text
        self._joined, self._promised = number + 1, self._promised + promised
        try:
            self._take_in(text, prompt, states)
        except BaseException:
            self.leave(number)
            raise
        return number

    def send(self) -> None:
        self._advance([text for text in self._texts.values() if text.sent and text.chosen != BROKEN])
        self._steps.append({number: text.chosen for number, text in self._texts.items()})
        for text in self._texts.values():
            text.sent = True

    def receive(self) -> dict[int, int]:
        return self._steps.popleft()

    def leave(self, text: int) -> None:
        left = self._texts.pop(text)
        self._runner.forward.dismiss(left.place)
        self._promised -= left.promised

    @property
    def cache_bytes(self) -> int:
        return sum(self._bytes(text.position) for text in self._texts.values())

    def _take_in(self, text: _Text, prompt: Sequence[int], states: Caches) -> None:
        """Bring a prompt into the text's cache, and choose the token after it."""
        if len(prompt) < STEPS_BELOW:
            for position, token in enumerate(prompt):
                self._decoder.step(token, position, text.graph)
        else:
            hidden = self._runner.prefill.over(states, text.place).run(list(prompt), 0)
            self._decoder.predict(hidden[0], len(prompt) - 1)
        self._choose(text, self._decoder.logits)

    def _advance(self, texts: Sequence[_Text]) -> None:
        """Each text's newest token goes into its cache, and the next is chosen."""
        if not texts:
            return
        logits = self._together(texts) if len(texts) > 1 else self._alone(texts[0])[None]
        for text, row in zip(texts, logits, strict=True):
            text.position += 1
            self._choose(text, row)

    def _alone(self, text: _Text) -> np.ndarray:
        return self._decoder.step(text.chosen, text.position, text.graph)

    def _together(self, texts: Sequence[_Text]) -> np.ndarray:
        """float32 [texts, vocab] of one pass."""
        tokens, positions = [text.chosen for text in texts], [text.position for text in texts]
        threads, start = self._threads.next(), time.perf_counter()
        logits = self._runner.row_logits(tokens, positions, [text.place for text in texts], threads)
        self._threads.record(threads, time.perf_counter() - start)
        return logits

    def _choose(self, text: _Text, logits: np.ndarray) -> None:
        """What comes to its position."""
        try:
            text.chosen = text.picker.pick(logits, text.position)
        except ModelError:
            text.chosen = BROKEN

    def _bytes(self, positions: int) -> int:
        """Of what is kept of a text of which so many positions are written."""
        return text_state.size(self._decoder.config.sizes, positions)
