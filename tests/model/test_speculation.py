"""Speculation on tiny models: the same text, the same distribution, a true cache, and its limits."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

import model
from model import speculation
from model.engine import Model
from model.errors import ModelError
from model.sampling import Sampler
from model.speculation_policy import SIZES, Watcher

PROMPT = [5, 6, 7, 8, 9] * 6
HOT = Sampler(1.5, 3, seed=1)


class Eager(Watcher):
    """Proposes wherever there is a match, whatever it costs."""

    def proposals(self, match: int, most: int) -> int:
        return next((size for size in SIZES if size <= most), 0) if match else 0


class Timed(Eager):
    """Remembers what passes took."""

    def __init__(self) -> None:
        super().__init__()
        self.took: list[float] = []

    def passed(self, proposed: int, kept: int, seconds: float) -> None:
        self.took.append(seconds)
        super().passed(proposed, kept, seconds)


@pytest.fixture(scope="module")
def opened(made) -> Iterator[Model]:
    engine = model.load(made("tiny", "F32"), threads=1)
    engine.tokenizer.end_tokens = frozenset()
    engine.runner.warm_up()
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def as_new(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.reset()
    monkeypatch.setattr(opened, "watcher", Eager())


def text(engine: Model, count: int, sampler: Sampler, prompt: list[int] = PROMPT, **settings) -> list[int]:
    return list(engine.generate_tokens(prompt, count, sampler, **settings))


@pytest.mark.parametrize("sampler", [Sampler(), *(Sampler(0.7, 20, 0.9, seed) for seed in range(4)), HOT])
def test_a_seed_s_text_is_the_text_without_speculation(opened: Model, sampler: Sampler) -> None:
    """On this model passes and steps differ too little to move a token."""
    wanted = text(opened, 80, sampler)
    assert opened.timing.speculated is None
    assert text(opened, 80, sampler, speculate="ngram") == wanted
    done = opened.timing.speculated
    assert done is not None and 0 <= done.kept <= done.proposed and opened.timing.tokens == 80
    assert done.passes > 0


def test_what_is_made_ready_is_not_the_time_of_a_pass(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is captured for each size of pass and again where a longer context begins: of a small model that takes as
    long as a hundred steps, and would have passes of that size given up. What is not ready yet is not waited for."""
    hours, watcher, asked = [0.0], Timed(), []

    def clock() -> float:
        hours[0] += 1e-3
        return hours[0]

    monkeypatch.setattr(speculation.time, "perf_counter", clock)
    monkeypatch.setattr(opened, "watcher", watcher)

    def make_ready(tokens: int, first: int, sampler: Sampler) -> bool:
        asked.append((tokens, first))
        hours[0] += 1.0
        return first >= 60

    wanted = text(opened, 80, Sampler())
    monkeypatch.setattr(opened.runner, "make_ready", make_ready)
    assert text(opened, 80, Sampler(), speculate="ngram") == wanted
    assert min(first for _, first in asked) < 60
    assert 0 < max(watcher.took) < 0.01


def test_proposals_are_kept_and_some_are_not(opened: Model) -> None:
    """So that what the other tests compare has both."""
    kept = [text(opened, 60, Sampler(0.8, 3, seed=s), speculate="ngram") and opened.timing.speculated for s in range(8)]
    assert sum(done.kept for done in kept if done) > 50
    assert sum(done.proposed - done.kept for done in kept if done) > 50


RUNS = 1000


def continuations(engine: Model, prompt: list[int], first: int, **settings) -> Counter[tuple[int, ...]]:
    """How often each five tokens came, over RUNS seeds from `first` on."""
    seeds = range(first, first + RUNS)
    return Counter(tuple(text(engine, 5, Sampler(2.0, 3, seed=seed), prompt, **settings)) for seed in seeds)


def test_sampled_text_keeps_its_distribution(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chi-square of the five tokens after a prompt that ends as it began, as many with speculation as without, each of
    its own seed. Passes that keep one proposal that the model did not choose are found out."""
    prompt = [*PROMPT, *text(opened, 5, Sampler()), *PROMPT[:10]]  # so that the likeliest text was read before
    plain = continuations(opened, prompt, 0)
    kept = []
    passed = opened.watcher.passed
    monkeypatch.setattr(opened.watcher, "passed", lambda size, right, s: kept.append(right) or passed(size, right, s))
    speculated = continuations(opened, prompt, RUNS, speculate="ngram")
    assert len(plain) > 20 and sum(kept) > RUNS / 4 and kept.count(0) > RUNS / 8
    assert likelihood(plain, speculated) > 0.01

    verify = opened.runner.verify

    def lenient(tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        chosen = verify(tokens, first, sampler)
        if chosen[0] == tokens[1]:
            return chosen
        return [tokens[1], *verify(tokens[1:], first + 1, sampler)]

    monkeypatch.setattr(opened.runner, "verify", lenient)
    assert likelihood(plain, continuations(opened, prompt, 2 * RUNS, speculate="ngram")) < 1e-4


def likelihood(a: Counter[tuple[int, ...]], b: Counter[tuple[int, ...]]) -> float:
    """p of a chi-square test that both count draws from one distribution; what is rare is counted together."""
    outcomes = [key for key in {**a, **b} if a[key] + b[key] >= 20]
    rows = [[counts[key] for key in outcomes] for counts in (a, b)]
    rare = [counts.total() - sum(row) for counts, row in zip((a, b), rows, strict=True)]
    table = np.array([[*row, rest] for row, rest in zip(rows, rare, strict=True)])
    return float(chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def test_a_fresh_seed_is_one_seed(opened: Model) -> None:
    texts = {tuple(text(opened, 20, Sampler(1.5, 5), speculate="ngram")) for _ in range(4)}
    assert len(texts) > 1


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9])
def test_no_more_tokens_than_asked_for(opened: Model, count: int) -> None:
    assert len(text(opened, count, Sampler(), speculate="ngram")) == count


@pytest.mark.parametrize("room", range(1, 13))
def test_nothing_is_fed_beyond_the_context(tiny_model: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = model.load(tiny_model, context=len(PROMPT) + room, threads=1)
    try:
        engine.tokenizer.end_tokens = frozenset()
        engine.watcher = Eager()
        engine.runner.warm_up()
        fed = []
        verify = engine.runner.verify

        def watched(tokens: list[int], first: int, sampler: Sampler) -> list[int]:
            fed.append(first + len(tokens))
            return verify(tokens, first, sampler)

        monkeypatch.setattr(engine.runner, "verify", watched)
        assert len(text(engine, 999, Sampler(), speculate="ngram")) == room
        assert max(fed, default=0) < engine.context  # the last token is chosen, never fed
    finally:
        engine.close()


def test_an_end_token_among_kept_ones_ends_the_text(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text(opened, 40, HOT)
    for end in sorted(set(whole)):
        monkeypatch.setattr(opened.tokenizer, "end_tokens", frozenset({end}))
        made = text(opened, 40, HOT, speculate="ngram")
        assert made == whole[: whole.index(end) + 1] and opened.timing.ended
        assert opened.timing.tokens == len(made)
        monkeypatch.setattr(opened.tokenizer, "end_tokens", frozenset())
        assert text(opened, 40, HOT, speculate="ngram", ignore_end=True) == whole


@pytest.mark.parametrize("read", range(1, 30, 4))
def test_the_cache_is_true_after_a_reader_that_leaves(opened: Model, read: int) -> None:
    whole = text(opened, 40, HOT)
    opened.reset()
    stream = opened.generate_tokens(PROMPT, 40, HOT, speculate="ngram")
    begun = list(itertools.islice(stream, read))
    stream.close()
    assert begun == whole[:read]
    cached = list(opened._cached)
    assert len(cached) >= len(PROMPT) + read - 1 and cached == [*PROMPT, *whole][: len(cached)]
    longer = [*PROMPT, *whole[:20], 77, 78]
    found = text(opened, 12, Sampler(), longer)
    assert opened.timing.cached == min(len(cached), len(PROMPT) + 20)
    opened.reset()
    assert text(opened, 12, Sampler(), longer) == found


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_cache_is_true_after_ctrl_c_in_a_pass(
    opened: Model, call: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = text(opened, 60, HOT)
    opened.reset()
    verify, calls = opened.runner.verify, itertools.count()

    def interrupted(tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        stopped = next(calls) == call
        if stopped and not after:
            raise KeyboardInterrupt
        chosen = verify(tokens, first, sampler)
        if stopped:
            raise KeyboardInterrupt
        return chosen

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(opened.runner, "verify", interrupted)
        text(opened, 60, HOT, speculate="ngram")
    cached = list(opened._cached)
    assert cached == [*PROMPT, *whole][: len(cached)]
    assert opened.timing.speculated is not None and opened.timing.speculated.passes == call
    longer = [*cached, 77]
    found = text(opened, 12, Sampler(), longer)
    opened.reset()
    assert text(opened, 12, Sampler(), longer) == found


def test_steps_and_passes_take_turns_without_losing_a_token(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals in some stretches only, as the policy's are."""

    class Moody(Eager):
        def proposals(self, match: int, most: int) -> int:
            return super().proposals(match, most) if self._tokens // 7 % 2 else 0

    monkeypatch.setattr(opened, "watcher", Moody())
    for seed in range(6):
        sampler = Sampler(0.9, 4, seed=seed)
        wanted = text(opened, 90, sampler)
        assert text(opened, 90, sampler, speculate="ngram") == wanted
        done = opened.timing.speculated
        assert done is not None and done.passes and done.passes + done.kept < 90


def test_a_stream_that_is_told_to_start_no_more(opened: Model) -> None:
    whole = text(opened, 10, Sampler())
    opened.runner.feed([PROMPT[-1]], len(PROMPT) - 1)
    answers = iter([True, True, False])
    stream = opened.runner.stream(len(PROMPT), 10, Sampler(), lambda started: next(answers))
    assert list(stream) == whole[:3]
    opened.runner.feed([whole[2]], len(PROMPT) + 2)  # the last was chosen, not fed
    assert list(opened.runner.stream(len(PROMPT) + 3, 7, Sampler())) == whole[3:]


def test_the_watcher_that_users_get(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it decides on a model whose passes cost far more than its steps: the text is the same."""
    wanted = text(opened, 150, HOT)
    monkeypatch.setattr(opened, "watcher", Watcher())
    for _ in range(3):
        assert text(opened, 150, HOT, speculate="ngram") == wanted
    assert opened.watcher.observations().step_s > 0


def test_an_unknown_way_is_one_line(opened: Model) -> None:
    with pytest.raises(ModelError, match="speculate is 'dragon'; use off or ngram"):
        text(opened, 3, Sampler(), speculate="dragon")


def test_a_stop_without_a_pass_is_counted(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that were on their way may end the match for which steps stopped."""

    class Fickle(Watcher):
        stops, wanted = 0, True

        def proposals(self, match: int, most: int) -> int:
            self.wanted = not self.wanted
            return 0 if self.wanted else min(most, 1)

        def stopped(self) -> None:
            self.stops += 1
            super().stopped()

    plain, watcher = text(opened, 24, Sampler()), Fickle()
    monkeypatch.setattr(opened, "watcher", watcher)
    assert text(opened, 24, Sampler(), speculate="ngram") == plain
    assert watcher.stops > 0
