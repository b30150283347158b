"""Texts decoded together, interpreted: joined and left at any step, each gets the tokens that it gets alone."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hash_passes import VOCAB, FromHidden, HashPasses
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_interp_engine import interpreted

from model.cuda import sequences
from model.cuda.page_pool import PagePool, PageShape
from model.cuda.runner import CudaRunner
from model.cuda.sequences import CudaSequences
from model.errors import ModelError
from model.reference import reference_logits
from model.sampling import Sampler
from model.sequences import BROKEN
from model.widths import bucket

SHAPE, CONTEXT = PageShape(((1, 16),) * 2, positions=4), 64
PROMPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9).map(tuple)
SAMPLERS = st.sampled_from([Sampler(), Sampler(1.0, seed=5), Sampler(0.8, 5, 0.9, seed=2**40)])


def hashing(most: int, pages: int) -> CudaSequences:
    pool = PagePool(SHAPE, torch.device("cpu"), pages * 2 * SHAPE.elements)
    table = torch.zeros((most, SHAPE.pages(CONTEXT)), dtype=torch.int64)
    passes: Any = HashPasses(pool.cache(table), CONTEXT, bucket(most))
    return CudaSequences(passes, pool, cast("Any", FromHidden()), most)


@cache
def alone(prompt: tuple[int, ...], tokens: int, sampler: Sampler) -> list[int]:
    """What a text gets that nobody else is with."""
    lonely = hashing(1, 100)
    number = lonely.join(prompt, tokens, sampler)
    assert number is not None
    for _ in range(tokens):
        lonely.send()
    return [lonely.receive()[number] for _ in range(tokens)]


class Together(RuleBasedStateMachine):
    """Greedy and sampled texts, in little memory, with steps ahead of those received."""

    @initialize(most=st.sampled_from([1, 3, 6]), pages=st.sampled_from([6, 12, 40]))
    def open(self, most: int, pages: int) -> None:
        self.sequences = hashing(most, pages)
        self.pages = pages
        self.asked: dict[int, tuple[tuple[int, ...], int, Sampler]] = {}
        self.got: dict[int, list[int]] = {}
        self.there: set[int] = set()
        self.ahead = 0

    @rule(prompt=PROMPTS, tokens=st.integers(1, 6), sampler=SAMPLERS)
    def join(self, prompt: tuple[int, ...], tokens: int, sampler: Sampler) -> None:
        needed = [SHAPE.pages(len(self.asked[n][0]) + self.asked[n][1]) for n in self.there]
        new = SHAPE.pages(len(prompt) + tokens)
        full = len(self.there) == self.sequences.most or sum(needed) + new > self.pages
        number = self.sequences.join(prompt, tokens, sampler)
        assert (number is None) == full
        if number is not None:
            assert number not in self.asked
            self.asked[number], self.got[number] = (prompt, tokens, sampler), []
            self.there.add(number)

    @precondition(lambda self: self.ahead < sequences.SLOTS - 1)
    @rule()
    def send(self) -> None:
        self.sequences.send()
        self.ahead += 1

    @precondition(lambda self: self.ahead)
    @rule()
    def receive(self) -> None:
        self.ahead -= 1
        for number, token in self.sequences.receive().items():
            self.got[number].append(token)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.there)))
        self.sequences.leave(number)
        self.there.remove(number)

    @invariant()
    def memory_is_what_was_promised_at_most(self) -> None:
        most = self.pages + 8  # one allocation is not used to its end
        assert (self.sequences.cache_bytes > 0) == bool(self.there)
        assert self.sequences.cache_bytes <= most * 2 * SHAPE.elements

    def teardown(self) -> None:
        for number in sorted(self.there):
            self.sequences.leave(number)
        assert self.sequences.cache_bytes == 0
        while self.ahead:
            self.receive()
        for number, tokens in self.got.items():
            wanted = alone(*self.asked[number])
            assert tokens == wanted[: len(tokens)], self.asked[number]


TestTogether = Together.TestCase
TestTogether.settings = settings(max_examples=12, stateful_step_count=20)


def test_a_text_that_never_fits_is_refused() -> None:
    opened = hashing(2, 3)
    with pytest.raises(ModelError, match=r"needs 0 MB of KV cache and 0 MB may be taken; ask for fewer tokens"):
        opened.join([1] * 8, 5, Sampler())
    number = opened.join([1] * 8, 4, Sampler())
    assert number is not None and opened.join([1], 1, Sampler()) is None
    opened.leave(number)
    assert opened.join([1], 1, Sampler()) is not None
    cast("Any", opened)._forward.model.on_host = True
    with pytest.raises(ModelError, match="0 MB may be taken, since experts fill the GPU; ask"):
        opened.join([1] * 8, 5, Sampler())


def test_what_a_prompt_raises_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = hashing(2, 12)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HashPasses, "read", interrupted)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                opened.join([1, 2, 3], 40, Sampler())
    assert opened.cache_bytes == 0
    number = opened.join([1, 2, 3], 2, Sampler())
    opened.send()
    assert opened.receive() == {number: alone((1, 2, 3), 2, Sampler())[0]}


def test_only_the_broken_text_is_broken() -> None:
    opened = hashing(3, 40)
    numbers = [opened.join([i], 4, Sampler()) for i in range(3)]
    opened._logits[1, 7] = torch.nan
    opened.send()
    tokens = opened.receive()
    assert [tokens[n] == BROKEN for n in numbers if n is not None] == [False, True, False]


def test_a_step_without_texts_brings_none() -> None:
    opened = hashing(2, 12)
    opened.send()
    number = opened.join([3], 1, Sampler())
    opened.send()
    opened.send()  # it has got all that it asked for
    assert opened.receive() == {}
    assert opened.receive() == {number: alone((3,), 1, Sampler())[0]}
    assert opened.receive() == {}


Made = Callable[[str, str], Path]


def tokens_of(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 512, count).tolist()


def best_of(path: Path, prompt: Sequence[int], tokens: Sequence[int]) -> bool:
    """Whether each token is the likeliest after those before it, or next to it within the kernels' error."""
    logits = reference_logits(path, [*prompt, *tokens[:-1]])[len(prompt) - 1 :].numpy()
    return bool((logits.max(1) - logits[np.arange(len(tokens)), tokens] < 0.02).all())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen3", "tiny-qwen35"])
def test_a_model_s_texts_together(made: Made, shape: str) -> None:
    """One crosses the edge of a page, one leaves, one is sampled and gets what it gets alone."""
    path = made(shape, "Q4_0")
    runner = cast("CudaRunner", interpreted(path).runner)
    long, short, drawn = tokens_of(62, 1), tokens_of(3, 2), tokens_of(4, 3)
    hot = Sampler(1.0, 40, 0.95, seed=5)
    opened, got = runner.open_sequences(4), {}
    first = opened.join(short, 5, Sampler())
    opened.send()
    others = [opened.join(long, 4, Sampler()), opened.join(drawn, 3, hot)]
    opened.send()
    assert first is not None
    opened.leave(first)
    opened.send()
    opened.send()
    for _ in range(4):
        for number, token in opened.receive().items():
            got.setdefault(number, []).append(token)
    assert [len(got[n]) for n in (first, *others)] == [2, 3, 3]
    assert best_of(path, short, got[first]) and best_of(path, long, got[others[0]])
    assert runner.open_sequences(1 << 20).most == runner.forward.most
    lonely = runner.open_sequences(1)
    number = lonely.join(drawn, 3, hot)
    for _ in range(3):
        lonely.send()
    assert [lonely.receive()[number] for _ in range(3)] == got[others[1]]
    # The same text in the single text's cache, verified in one pass: what follows each token.
    runner.forward.read(drawn, 0)
    assert runner.verify(got[others[1]], 4, hot)[:2] == got[others[1]][1:]


@pytest.mark.slow
def test_verifying_garbage_is_an_error(made: Made) -> None:
    runner = cast("CudaRunner", interpreted(made("tiny", "Q4_0"), 64).runner)
    runner.forward.model.output_norm.fill_(torch.nan)
    with pytest.raises(ModelError, match="not a finite number"):
        runner.verify([1, 2], 0, Sampler())
