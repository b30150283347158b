"""Speculation without a second model: proposals from the text itself, verified several at a time in one pass.

The distribution of the text stays what it is without. A pass feeds the last token and its proposals, and the runner
chooses a token after each, as it would step by step. They are kept up to and including the first that is not what
was proposed: every token kept was chosen after a text of kept tokens alone, and the rest is thrown away.

That is rejection sampling (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding") with a
proposal that is certain. There a token x proposed with probability q(x) is kept with probability min(1, p(x) / q(x)),
and otherwise one is drawn from what remains of p, max(0, p - q) normalized. With q(x) = 1 that is: keep x with
probability p(x), otherwise draw from p without x, which for any y but x is (1 - p(x)) p(y) / (1 - p(x)) = p(y). To draw
from p and to look whether x came is the same in one step.

A random number belongs to (seed, position). One that was drawn at a position behind a rejected token is drawn again
there, for the text that came to be: what was thrown away has no say in it, since proposals depend on kept tokens alone.
So a seed's text is the text without speculation, as far as a pass and a step compute the same logits.
"""

import time
from collections.abc import Iterator, Sequence

from model.config import ModelConfig
from model.errors import ModelError, quoted
from model.prompt_lookup import PromptLookup
from model.runner import Runner
from model.sampling import Sampler
from model.speculation_policy import Watcher

OFF, NGRAM = "off", "ngram"
MODES = (OFF, NGRAM)


def check(mode: str, config: ModelConfig) -> None:
    """Raises ModelError for a mode that there is not, or of which a model's texts are not capable."""
    if mode not in MODES:
        raise ModelError(f"speculate is {quoted(mode)}; use {' or '.join(MODES)}")
    if mode != OFF and any(sizes.delta for sizes in config.sizes):
        raise ModelError(
            "this model's layers keep a state that cannot go back behind a token that was proposed; leave out "
            "--speculate"
        )


def stream(
    runner: Runner, prompt: Sequence[int], count: int, sampler: Sampler, watcher: Watcher
) -> Iterator[list[int]]:
    """`count` tokens after a prompt that was fed, in lists of one or more: when a list comes out, all tokens before its
    last are in the cache.

    sampler: with a seed, unless it is greedy. watcher: decides when to propose, and how many; a new text begins for it.
    """
    watcher.begin()
    lookup, end, last = PromptLookup(prompt), len(prompt) + count, -1
    while len(lookup.text) < end:
        if last >= 0:
            if proposals := _proposals(runner, watcher, lookup, end, sampler):
                chosen = _verified(runner, watcher, lookup, proposals, sampler)
                last = chosen[-1]
                yield chosen
                continue
            watcher.stopped()
        for token in _stepped(runner, watcher, lookup, last, end, sampler):
            last = token
            yield [token]


def _proposals(runner: Runner, watcher: Watcher, lookup: PromptLookup, end: int, sampler: Sampler) -> int:
    """How many to propose now: what a pass makes, one more, must not go past `end`. 0 while a pass is being made
    ready, which is not a pass's time."""
    proposals = watcher.proposals(lookup.match, end - len(lookup.text) - 1)
    return proposals if proposals and runner.make_ready(1 + proposals, len(lookup.text) - 1, sampler) else 0


def _verified(runner: Runner, watcher: Watcher, lookup: PromptLookup, proposals: int, sampler: Sampler) -> list[int]:
    """The tokens that one pass makes."""
    proposed, position = lookup.propose(proposals), len(lookup.text) - 1
    start = time.perf_counter()
    chosen = runner.verify([lookup.text[-1], *proposed], position, sampler)
    seconds = time.perf_counter() - start
    kept = 0
    while kept < proposals and chosen[kept] == proposed[kept]:
        kept += 1
    watcher.passed(proposals, kept, seconds)
    for token in chosen[: kept + 1]:
        _push(watcher, lookup, token)
    return chosen[: kept + 1]


def _stepped(
    runner: Runner, watcher: Watcher, lookup: PromptLookup, last: int, end: int, sampler: Sampler
) -> Iterator[int]:
    """Tokens from single steps, until a pass should begin. last: the text's last token if it is not in the cache, else
    -1."""

    def more(started: int) -> bool:
        if _proposals(runner, watcher, lookup, end, sampler):
            return False
        return watcher.ahead is None or started < watcher.ahead

    start = time.perf_counter()
    position = len(lookup.text)
    if last >= 0:
        runner.feed([last], position - 1)
    for token in runner.stream(position, end - position, sampler, more):
        watcher.stepped(time.perf_counter() - start)
        _push(watcher, lookup, token)
        yield token
        start = time.perf_counter()  # what the reader took is not the step's time


def _push(watcher: Watcher, lookup: PromptLookup, token: int) -> None:
    if lookup.match:
        watcher.tested(lookup.match, token == lookup.predicted)
    lookup.push(token)
