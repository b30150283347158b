"""Continuous batching: requests join and leave a batch of texts at any step, and each is answered exactly once.

Requests are admitted in order, as soon as there is room: none overtakes another that waits for memory. Knows tokens
alone; what they are in words, and on what they are computed, others know.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from model.errors import ModelError
from model.sampling import Sampler
from model.sequences import BROKEN, Sequences

Reason = Literal["end_token", "length", "context_full", "error"]


@dataclass(frozen=True)
class Request:
    """prompt: token ids, at least one and fewer than a text has positions; tokens: at most so many are generated."""

    prompt: tuple[int, ...]
    tokens: int
    sampler: Sampler


@dataclass(frozen=True)
class End:
    """Why a text ended, and what was done for it.

    tokens: generated, an end token included; prompt_s: seconds from its admission until the first of them; decode_s:
    from there to the last; error: one line, where the reason is "error".
    """

    reason: Reason
    prompt_tokens: int
    tokens: int
    prompt_s: float
    decode_s: float
    error: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to request `index`, counted from 0: a token (None: none came), its end, or both."""

    index: int
    token: int | None
    end: End | None


@dataclass
class _Running:
    index: int
    prompt_tokens: int
    limit: int
    reason: Reason
    """Where it ends after `limit` tokens."""
    begun: float
    sent: int = 0
    received: int = 0
    first: float = 0.0

    def end(self, reason: Reason, now: float, error: str | None = None) -> End:
        first = self.first or now
        return End(reason, self.prompt_tokens, self.received, first - self.begun, now - first, error)


def decode(
    sequences: Sequences,
    requests: Iterable[Request | ModelError],
    end_tokens: Collection[int],
    each_step: Callable[[], None] = lambda: None,
) -> Generator[Event, None, None]:
    """Answer requests, which are taken when there is room for them, and yield what happens as it happens.

    A ModelError in place of a request, or one that `join` raises, ends that request alone. each_step is called before
    a step is sent. What it raises, what taking a request raises and any other error ends all; then, and when the
    iterator is closed early, no text is left and no step unreceived.
    """
    batch = _Batch(sequences, iter(requests), end_tokens, each_step)
    try:
        yield from batch.events()
    finally:
        batch.clear()


class _Batch:
    """texts: by their numbers in `sequences`, until their last token is received; they left it before, as soon as that
    was asked for, and are in `sending` as long as they have not."""

    def __init__(
        self, sequences: Sequences, requests: Iterator[Request | ModelError], end_tokens: Collection[int],
        each_step: Callable[[], None],
    ):  # fmt: skip
        self.sequences, self.end_tokens, self.each_step = sequences, end_tokens, each_step
        self.requests = enumerate(requests)
        self.waiting: deque[tuple[int, Request | ModelError]] = deque()
        self.texts: dict[int, _Running] = {}
        self.sending: dict[int, _Running] = {}
        self.in_flight = 0

    def events(self) -> Iterator[Event]:
        while True:
            yield from self._admit()
            if not self.texts:
                return
            while self.sending and self.in_flight < self.sequences.ahead:
                self._send()
            yield from self._receive()

    def clear(self) -> None:
        for number in self.sending:
            self.sequences.leave(number)
        self.sending.clear()
        while self.in_flight:
            self.in_flight -= 1
            with suppress(ModelError):
                self.sequences.receive()

    def _admit(self) -> Iterator[Event]:
        """Requests that end here, without a token; the others are in the batch afterwards, or the next one waits."""
        while len(self.sending) < self.sequences.most:
            if not self.waiting:
                self.waiting.extend(itertools.islice(self.requests, 1))
            if not self.waiting:
                return
            index, request = self.waiting[0]
            begun = time.perf_counter()
            try:
                running = self._join(index, request, begun)
            except ModelError as error:
                prompt = 0 if isinstance(request, ModelError) else len(request.prompt)
                yield Event(index, None, End("error", prompt, 0, 0.0, 0.0, str(error)))
            else:
                if running is None:
                    return
            self.waiting.popleft()

    def _join(self, index: int, request: Request | ModelError, begun: float) -> _Running | None:
        """None if there is no room now. Raises ModelError."""
        if isinstance(request, ModelError):
            raise request
        room = self.sequences.context - len(request.prompt)
        limit = min(request.tokens, room)
        number = self.sequences.join(request.prompt, limit, request.sampler)
        if number is None:
            if not self.sending:
                raise ModelError("there is no memory for this text, though no other is there; free some")
            return None
        reason: Reason = "length" if request.tokens <= room else "context_full"
        self.texts[number] = self.sending[number] = running = _Running(index, len(request.prompt), limit, reason, begun)
        return running

    def _send(self) -> None:
        """One step. A text whose last token it chooses leaves: the next one may have its place."""
        self.each_step()
        self.sequences.send()
        self.in_flight += 1
        for number, text in list(self.sending.items()):
            text.sent += 1
            if text.sent == text.limit:
                self._leave(number)

    def _receive(self) -> Iterator[Event]:
        """What one step brought. All of it is taken in before any is told: the reader may stop after each."""
        self.in_flight -= 1
        tokens, now, events = self.sequences.receive(), time.perf_counter(), []
        for number, token in tokens.items():
            text = self.texts.get(number)
            if text is None:  # it ended while this step was under way
                continue
            end = None
            if token == BROKEN:
                broken = "the largest logit is no number; the model's numbers overflowed or its file is damaged"
                end = text.end("error", now, broken)
            else:
                text.received += 1
                text.first = text.first or now
                if token in self.end_tokens:
                    end = text.end("end_token", now)
                elif text.received == text.limit:
                    end = text.end(text.reason, now)
            if end is not None:
                del self.texts[number]
                if number in self.sending:
                    self._leave(number)
            events.append(Event(text.index, None if token == BROKEN else token, end))
        yield from events

    def _leave(self, number: int) -> None:
        del self.sending[number]
        self.sequences.leave(number)
