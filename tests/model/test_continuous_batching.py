"""Requests that join and leave a batch at any step, on a real model: each is answered once, with the text it gets
alone, in order of admission, whatever memory, lengths and steps ahead."""

import functools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from kernel_templates.attention import cache
from model import engine
from model.continuous_batching import Event, Request, decode
from model.cpu.sequences import CpuSequences
from model.errors import ModelError
from model.sampling import Picker, Sampler

CONTEXT = 96  # two tiles of the cache
ROUNDING = 3e-4
"""Of the logits' spread: three times what steps for several texts differ by from steps for one."""
HOT = Sampler(temperature=1.5, seed=5)


@pytest.fixture(scope="module")
def opened(tiny_qwen3: Path) -> Iterator[engine.Model]:
    opened = model.load(tiny_qwen3, context=CONTEXT)
    yield opened
    opened.close()


class Careful(Picker):
    """Notes of each token that it draws whether rounding could make another of it."""

    def __init__(self, settings: Sampler) -> None:
        super().__init__(settings)
        self.doubtful: list[bool] = []

    def pick(self, logits: np.ndarray, position: int) -> int:
        token, pick = super().pick(logits, position), super().pick
        noise = np.random.default_rng(position).standard_normal((8, logits.size)) * (ROUNDING * logits.std())
        self.doubtful.append(any(pick(logits + each, position) != token for each in noise))
        return token


@pytest.fixture(scope="module")
def alone(opened: engine.Model):
    """alone(request, end tokens) -> the tokens that `generate_tokens` gives for it alone, and which of them rounding
    may decide: a step for several texts adds numbers up in another order than one for a single text."""

    @functools.cache
    def answer(request: Request, ends: frozenset[int]) -> tuple[list[int], list[bool]]:
        opened.reset()
        tokens: list[int] = []
        careful = Careful(request.sampler)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sampler, "picker", lambda _: careful)
            for token in opened.generate_tokens(request.prompt, request.tokens, request.sampler, ignore_end=True):
                tokens.append(token)
                if token in ends:
                    break
        return tokens, careful.doubtful

    return answer


def requests(vocab: int) -> st.SearchStrategy[Request]:
    prompts = st.tuples(st.integers(1, 70), st.integers(0, 3)).map(
        lambda drawn: tuple(np.random.default_rng(drawn[1]).integers(0, vocab, drawn[0]).tolist())
    )
    samplers = st.sampled_from([Sampler(), HOT, Sampler(temperature=0.9, top_k=5, top_p=0.9, seed=1)])
    return st.builds(Request, prompts, st.integers(1, 40), samplers)


def per_text(opened: engine.Model, positions: int) -> int:
    """Bytes of a text's whole cache."""
    return sum(cache.size(sizes.kv_heads, sizes.head_dim, positions) for sizes in opened.config.sizes)


class Watched(CpuSequences):
    """Keeps the order in which texts join, and checks that no promise is broken."""

    def __init__(self, *words, ahead: int) -> None:
        super().__init__(*words)
        self.ahead, self.joined, self.there, self.unreceived = ahead, [], set(), 0

    def join(self, prompt, tokens, sampler):
        number = super().join(prompt, tokens, sampler)
        if number is not None:
            self.joined.append(tuple(prompt))
            self.there.add(number)
        return number

    def send(self):
        super().send()
        self.unreceived += 1
        assert 0 < len(self.there) <= self.most and self.unreceived <= self.ahead
        assert self.cache_bytes <= self._limit

    def receive(self):
        self.unreceived -= 1
        return super().receive()

    def leave(self, text):
        self.there.remove(text)
        super().leave(text)


@settings(max_examples=60)
@given(data=st.data())
def test_every_request_is_answered_once_as_it_is_alone(opened, alone, data) -> None:
    asked: list[Request | ModelError] = data.draw(
        st.lists(st.one_of(requests(opened.config.vocab), st.just(ModelError("refused"))), max_size=9)
    )
    ends = frozenset(data.draw(st.lists(st.integers(0, opened.config.vocab - 1), max_size=40)))
    tiles = data.draw(st.integers(1, 6))
    sequences = Watched(
        opened.runner, data.draw(st.integers(1, 5)), tiles * per_text(opened, 1), ahead=data.draw(st.integers(1, 4))
    )
    tokens: dict[int, list[int]] = {i: [] for i in range(len(asked))}
    ended: dict[int, Event] = {}
    for event in decode(sequences, asked, ends):
        assert event.index not in ended
        if event.token is not None:
            tokens[event.index].append(event.token)
        if event.end is not None:
            ended[event.index] = event
    assert ended.keys() == tokens.keys()
    for i, request in enumerate(asked):
        end = ended[i].end
        assert end.tokens == len(tokens[i])
        if isinstance(request, ModelError):
            assert (end.reason, end.error, end.prompt_tokens) == ("error", "refused", 0)
            continue
        room = CONTEXT - len(request.prompt)
        assert end.prompt_tokens == len(request.prompt)
        if len(request.prompt) + min(request.tokens, room) > 64 * tiles:
            assert end.reason == "error" and "MB of KV cache" in end.error and not tokens[i]
            continue
        wanted, doubtful = alone(request, ends)
        other = next((k for k, pair in enumerate(zip(tokens[i], wanted, strict=False)) if pair[0] != pair[1]), None)
        assert tokens[i] == wanted if other is None else doubtful[other], (tokens[i], wanted, other)
        assert end.error is None and end.prompt_s > 0 and (end.decode_s > 0) == (end.tokens > 1)
        if tokens[i][-1] in ends:
            assert end.reason == "end_token"
        else:
            assert end.reason == ("length" if request.tokens <= room else "context_full")
    answered = [r.prompt for i, r in enumerate(asked) if isinstance(r, Request) and ended[i].end.reason != "error"]
    assert sequences.joined == answered, "admitted in order"
    assert_clean(sequences)


def assert_clean(sequences: Watched) -> None:
    assert not sequences.there and not sequences.unreceived and not sequences._texts
    assert sequences.cache_bytes == sequences._promised == 0


@settings(max_examples=30)
@given(data=st.data())
def test_closed_at_any_event_it_leaves_nothing(opened, data) -> None:
    asked = data.draw(st.lists(requests(opened.config.vocab), min_size=1, max_size=5))
    sequences = Watched(opened.runner, 3, 10 * per_text(opened, 1), ahead=data.draw(st.integers(1, 4)))
    events = decode(sequences, asked, frozenset())
    for _ in islice(events, data.draw(st.integers(0, 40))):
        pass
    events.close()
    assert_clean(sequences)


def test_requests_are_taken_when_there_is_room(opened) -> None:
    taken: list[int] = []

    def source() -> Iterator[Request]:
        for i in range(4):
            taken.append(i)
            yield Request((1, 2, 3), 3, Sampler())

    sequences = Watched(opened.runner, 2, 10 * per_text(opened, 1), ahead=1)
    seen = [(event.index, len(taken)) for event in decode(sequences, source(), frozenset())]
    assert seen[0] == (0, 2) and seen[-1] == (3, 4)
    assert [index for index, _ in seen] == [0, 1] * 3 + [2, 3] * 3


def test_a_text_that_ends_gives_its_place_to_the_next_at_once(opened) -> None:
    asked = [Request((1, 2), tokens, Sampler()) for tokens in (2, 6, 2, 2)]
    sequences = Watched(opened.runner, 2, 10 * per_text(opened, 1), ahead=1)
    steps = [e.index for e in decode(sequences, asked, frozenset())]
    assert steps == [0, 1, 0, 1, 1, 2, 1, 2, 1, 3, 1, 3]


def test_none_overtakes_one_that_waits_for_memory(opened) -> None:
    """Two tiles of memory: the second needs both, and the third, which would fit beside the first, comes after it."""
    asked = [Request((1,), 8, Sampler()), Request((2,), 80, Sampler()), Request((3,), 8, Sampler())]
    sequences = Watched(opened.runner, 3, 2 * per_text(opened, 1), ahead=2)
    order = [e.index for e in decode(sequences, asked, frozenset())]
    assert order == [0] * 8 + [1] * 80 + [2] * 8


@pytest.mark.parametrize("where", ["source", "each_step"])
def test_an_error_of_all_leaves_nothing(opened, where) -> None:
    calls = 0

    def fail(name: str) -> None:
        nonlocal calls
        calls += name == where
        if calls == 3:
            raise OSError("gone")

    def source() -> Iterator[Request]:
        while True:
            fail("source")
            yield Request((1, 2, 3), 5, Sampler())

    sequences = Watched(opened.runner, 2, 10 * per_text(opened, 1), ahead=2)
    with pytest.raises(OSError, match="gone"):
        list(decode(sequences, source(), frozenset(), lambda: fail("each_step")))
    assert_clean(sequences)


def test_logits_that_are_no_numbers_end_their_text_alone(opened, monkeypatch) -> None:
    """Two texts' first step together gives one of them NaN: its own logits, replaced after the fact."""
    together, count = type(opened.runner).row_logits, 0

    def spoiled(self, *rows):
        nonlocal count
        logits = together(self, *rows)
        count += 1
        if count == 1:  # after the two prompts: the second tokens
            logits[0, 7] = np.nan
        return logits

    monkeypatch.setattr(type(opened.runner), "row_logits", spoiled)
    sequences = Watched(opened.runner, 2, 10 * per_text(opened, 1), ahead=1)
    asked = [Request((1, 2), 5, Sampler()), Request((3, 4), 5, Sampler())]
    ends = [e for e in decode(sequences, asked, frozenset()) if e.end]
    assert [(e.index, e.end.reason, e.end.tokens) for e in ends] == [(0, "error", 1), (1, "length", 5)]
    assert "the largest logit is no number" in ends[0].end.error and ends[0].token is None
    assert_clean(sequences)
