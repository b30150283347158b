"""Layers that keep a state of a text, which cannot go back: conversations, several texts, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import model
from model.engine import Model
from model.errors import ModelError
from model.sampling import Sampler

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"
TEXT = np.random.default_rng(5).integers(3, 512, 40).tolist()


@pytest.fixture(scope="module", params=["qwen35", "qwen35moe"])
def opened(request: pytest.FixtureRequest) -> Iterator[Model]:
    loaded = model.load(MODELS / f"{request.param}.gguf", context=160, threads=2)
    yield loaded
    loaded.close()


def after(opened: Model, prompt: list[int], count: int = 8) -> list[int]:
    return list(opened.generate_tokens(prompt, count, Sampler(), ignore_end=True))


def alone(opened: Model, prompt: list[int], count: int = 8) -> list[int]:
    opened.reset()
    return after(opened, prompt, count)


def test_a_conversation_goes_on_where_it_was(opened: Model) -> None:
    first = alone(opened, TEXT[:20])
    longer = [*TEXT[:20], *first, *TEXT[20:30]]
    went_on = after(opened, longer)
    assert opened.timing.cached == 20 + len(first) - 1  # the last token was chosen, and not yet read
    assert went_on == alone(opened, longer)


@pytest.mark.parametrize(("kept", "cached"), [(1, 0), (19, 0), (20, 20), (24, 20)])
def test_another_end(opened: Model, kept: int, cached: int) -> None:
    """States are those of all tokens read: a prompt that leaves the path goes on behind the last prompt, if it has all
    of that, or begins anew."""
    read = [*TEXT[:20], *alone(opened, TEXT[:20])]
    prompt = [*read[:kept], *TEXT[25:30]]
    assert prompt[kept] != read[kept]
    for _ in range(2):
        found = after(opened, prompt)
        assert opened.timing.cached == cached and found == alone(opened, prompt)
        alone(opened, TEXT[:20])


def test_a_mark_is_of_its_own_text(opened: Model) -> None:
    """Logits of another text with the same beginning overwrite the states, and mark nothing."""
    alone(opened, TEXT[:10])
    opened.logits([*TEXT[:12], *TEXT[30:38]])
    prompt = [*TEXT[:12], *TEXT[20:24]]
    found = after(opened, prompt)
    assert opened.timing.cached == 0 and found == alone(opened, prompt)


def test_the_same_prompt_again_gives_the_same(opened: Model) -> None:
    assert alone(opened, TEXT[:20]) == after(opened, TEXT[:20])


@pytest.mark.parametrize("read", [0, 1, 3])
def test_a_reader_that_leaves(opened: Model, read: int) -> None:
    opened.reset()
    tokens = opened.generate_tokens(TEXT[:12], 8, Sampler(), ignore_end=True)
    begun = [next(tokens) for _ in range(read)]
    tokens.close()
    longer = [*TEXT[:12], *begun, *TEXT[30:35]]
    assert after(opened, longer) == alone(opened, longer)


def test_a_token_that_was_broken_off(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when a step is done and its token is not yet known: what the state holds is not what is remembered."""
    opened.reset()
    tokens = opened.generate_tokens(TEXT[:12], 8, Sampler(), ignore_end=True)
    begun, step = [next(tokens) for _ in range(3)], opened.runner.decoder.step

    def broken(*arguments):
        step(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(opened.runner.decoder, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    monkeypatch.undo()
    longer = [*TEXT[:12], *begun, *TEXT[30:35]]
    assert after(opened, longer) == alone(opened, longer)


def test_steps_and_prompts_are_one_text(opened: Model) -> None:
    """A prompt in any two parts, in steps or in a pass, leaves the state that it leaves whole."""
    whole = opened.logits(TEXT)
    for first in (1, 2, 3, 17, 39):
        opened.reset()
        opened.runner.feed(TEXT[:first], 0)
        opened.runner.feed(TEXT[first:], first)
        assert np.abs(opened.runner.decoder.logits - whole[-1]).max() < 5e-3
    assert np.abs(opened.logits(TEXT, stepwise=True) - whole).max() < 5e-3


def test_texts_beside_each_other(opened: Model) -> None:
    """Each has its own states, whenever it joins, beside the text that is there."""
    prompts = [TEXT[:20], TEXT[3:5], TEXT[10:33], TEXT[7:8]]
    wanted = [alone(opened, prompt, 6) for prompt in prompts]
    held = alone(opened, TEXT[:20], 6)
    for most in (1, 3):
        pieces = list(opened.generate_many([list(p) for p in prompts], 6, Sampler(), most=most))
        found = ["".join(piece.text for piece in pieces if piece.index == i) for i in range(len(prompts))]
        stream = opened.tokenizer.stream
        for text, tokens in zip(found, wanted, strict=True):
            end = next((i for i, token in enumerate(tokens) if token in opened.tokenizer.end_tokens), len(tokens))
            reader = stream()
            assert text == "".join(map(reader.push, tokens[:end])) + reader.flush()
    longer = [*TEXT[:20], *held, *TEXT[20:25]]
    assert after(opened, longer) == alone(opened, longer)


def test_speculation_is_refused_in_one_line(opened: Model) -> None:
    with pytest.raises(ModelError, match=r"cannot go back.*--speculate"):
        next(opened.generate_tokens(TEXT, 4, Sampler(), speculate="ngram"))
