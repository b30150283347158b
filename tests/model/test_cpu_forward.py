"""Rows of several texts in one pass, and several tokens of one text, predict what decode steps predict."""

from collections.abc import Iterator

import numpy as np
import pytest

import model
from kernel_templates.attention import cache
from model.cpu.forward import OWN, TEXTS
from model.engine import Model

NEAR = 1e-3  # of the logits' norm; a wrong row or position gives more than 0.5


@pytest.fixture(scope="module", params=["tiny", "tiny-gemma2", "tiny-qwen3"])
def opened(request: pytest.FixtureRequest, made) -> Iterator[Model]:
    engine = model.load(made(request.param, "Q4_0"), context=192, threads=2)
    yield engine
    engine.close()


def tokens_of(engine: Model, count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, engine.config.vocab, count).tolist()


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.linalg.norm(found - wanted) <= NEAR * np.linalg.norm(wanted))


def caches(engine: Model, positions: int) -> list[dict[str, np.ndarray]]:
    c = engine.config
    made = (cache.allocate(s.kv_heads, s.head_dim, positions) for s in c.sizes)
    return [{"keys": keys, "values": values} for keys, values in made]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_few_tokens_of_one_text(opened: Model, count: int) -> None:
    tokens = tokens_of(opened, 70, count)  # the last ones lie on both sides of a tile of the cache
    wanted = opened.logits(tokens, stepwise=True)
    first = len(tokens) - count
    found = opened.runner.row_logits(tokens[first:], range(first, len(tokens)), [OWN] * count)
    assert all(near(*pair) for pair in zip(found, wanted[first:], strict=True))


def test_texts_of_different_lengths_share_a_pass(opened: Model) -> None:
    """Each with a cache of its own size; one leaves, and another takes its place."""
    lengths = {1: 5, 2: 64, TEXTS - 1: 130}
    texts = {number: tokens_of(opened, length + 1, length) for number, length in lengths.items()}
    wanted = {number: opened.logits(tokens, stepwise=True)[-1] for number, tokens in texts.items()}
    forward, prefill = opened.runner.forward, opened.runner.prefill
    held = {number: caches(opened, len(tokens)) for number, tokens in texts.items()}
    for number, tokens in texts.items():
        prefill.over(held[number], number).run(tokens[:-1], 0)
    for number in texts:
        forward.place(number, held[number])
    for _ in range(2):  # the same row again changes nothing
        found = opened.runner.row_logits([t[-1] for t in texts.values()], list(lengths.values()), list(texts))
        assert all(near(*pair) for pair in zip(found, wanted.values(), strict=True))
    forward.place(2, held[1])
    (found,) = opened.runner.row_logits(texts[1][-1:], [lengths[1]], [2])
    assert near(found, wanted[1])


def test_a_pass_writes_nothing_past_its_rows(opened: Model) -> None:
    opened.logits(tokens_of(opened, 100, 3), stepwise=True)
    before = [layer.buffers["values"].copy() for layer in opened.runner.decoder.layers]
    opened.runner.row_logits(tokens_of(opened, 3, 4), range(50, 53), [OWN] * 3)
    for layer, old in zip(opened.runner.decoder.layers, before, strict=True):
        new = layer.buffers["values"]
        assert np.array_equal(new[:, :50], old[:, :50]) and np.array_equal(new[:, 53:], old[:, 53:])
        assert not np.array_equal(new[:, 50:53], old[:, 50:53])
