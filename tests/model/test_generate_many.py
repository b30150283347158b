"""`generate_many` gives each prompt the text that `generate` gives it alone, and errors to those whose they are."""

from collections.abc import Iterator
from itertools import islice

import pytest

import model
from model import engine
from model.engine import Piece, Prompt
from model.errors import ModelError
from model.runner import Runner
from model.sampling import Sampler

HOT = Sampler(temperature=1.2, seed=11)
TEXTS = ["hello there", "a", "the quick brown fox jumps " * 4, "<|im_start|>user\nhi<|im_end|>\n", "été 你好 🙂"]


@pytest.fixture(scope="module", params=["tiny_model", "tiny_qwen3"])
def opened(request: pytest.FixtureRequest) -> Iterator[engine.Model]:
    opened = model.load(request.getfixturevalue(request.param), context=128)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def exact(made) -> Iterator[engine.Model]:
    """A model of float32, whose steps and passes differ by a millionth: a draw among random logits is seldom so close.
    With activations in 16 bits they differ by a thousandth, which one draw in a hundred tells."""
    opened = model.load(made("tiny", "F32"), context=128)
    yield opened
    opened.close()


def texts(pieces: list[Piece]) -> dict[int, str]:
    found: dict[int, str] = {}
    for piece in pieces:
        found[piece.index] = found.get(piece.index, "") + piece.text
    return found


@pytest.mark.parametrize("most", [1, 3, 32])
def test_the_same_text_as_alone(opened: engine.Model, most: int) -> None:
    assert_as_alone(opened, Sampler(), most)


@pytest.mark.parametrize("most", [1, 3, 32])
def test_the_same_sampled_text_as_alone(exact: engine.Model, most: int) -> None:
    assert_as_alone(exact, HOT, most)


def assert_as_alone(opened: engine.Model, sampler: Sampler, most: int) -> None:
    alone, reasons = {}, {}
    for i, text in enumerate(TEXTS):
        alone[i] = "".join(opened.generate(text, 24, sampler))
        reasons[i] = ("end_token" if opened.timing.ended else "length", opened.timing.tokens)
    pieces = list(opened.generate_many(TEXTS, 24, sampler, most))
    assert texts(pieces) == alone
    ends = {piece.index: piece.end for piece in pieces if piece.end}
    assert {i: (end.reason, end.tokens) for i, end in ends.items()} == reasons


def test_a_prompt_has_its_own_settings(opened: engine.Model) -> None:
    prompts = [
        "hello",
        opened.tokenizer.encode("hello"),
        Prompt("hello", tokens=3),
        Prompt("hello", sampler=HOT),
        Prompt(TEXTS[3], parse_special=True),
    ]
    found = texts(list(opened.generate_many(iter(prompts), 9, most=2)))
    assert found[0] == found[1] == "".join(opened.generate("hello", 9))
    assert found[2] == "".join(opened.generate("hello", 3))
    assert found[3] == "".join(opened.generate("hello", 9, HOT))
    assert found[4] == "".join(opened.generate(TEXTS[3], 9, parse_special=True))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "the prompt is empty"),
        ([1] * 128, "the prompt has 128 tokens and the context holds 128"),
        ([1, 10**9], "outside the vocabulary"),
        ([-1], "outside the vocabulary"),
        ("half \ud800", "not valid Unicode"),
        (Prompt("hello", tokens=0), "0 tokens are no text"),
        (ModelError("not to be had"), "not to be had"),
    ],
    ids=["empty", "too long", "no token", "negative", "surrogate", "no tokens", "error"],
)
def test_an_error_ends_its_prompt_alone(opened: engine.Model, prompt, said: str) -> None:
    pieces = list(opened.generate_many(["hello", prompt, "there"], 5))
    (wrong,) = (piece for piece in pieces if piece.index == 1)
    assert wrong.end.reason == "error" and said in wrong.end.error and wrong.text == ""
    found = texts(pieces)
    assert (found[0], found[2]) == tuple("".join(opened.generate(text, 5)) for text in ("hello", "there"))


def test_a_full_context_ends_a_text(opened: engine.Model) -> None:
    (end,) = (p.end for p in opened.generate_many([[5] * 120], 99, HOT) if p.end)
    assert (end.reason, end.tokens) == ("context_full", 8) or end.reason == "end_token"


def test_texts_beside_each_other_and_a_conversation_do_not_meet(opened: engine.Model) -> None:
    """A text that goes on while others are generated, twice at once, one of them given up."""
    prompts = ["hello", "there", "a", "the quick"]
    alone = ["".join(opened.generate(prompt, 12)) for prompt in prompts]
    opened.reset()
    one, many = opened.generate("hello", 12), opened.generate_many(prompts, 12, most=3)
    given_up, other = opened.generate_many(["a"] * 2, 12), opened.generate_many(prompts[::-1], 12)
    first, begun, _ = next(one), list(islice(many, 5)), list(islice(given_up, 3))
    there = list(islice(other, 6))
    given_up.close()
    assert first + "".join(one) == alone[0]
    assert texts([*begun, *many]) == dict(enumerate(alone))
    assert texts([*there, *other]) == dict(enumerate(alone[::-1]))


def test_a_text_whose_cache_another_took_says_so(opened: engine.Model) -> None:
    one, rows = opened.generate_tokens([5, 6, 7], 9, Sampler(), ignore_end=True), opened.logit_rows([5, 6], True)
    wanted = [next(one), next(one)]
    next(rows)
    for interrupted in (one, rows):
        opened.reset()
        assert list(islice(opened.generate_tokens([5, 6, 7], 9, Sampler()), 2)) == wanted
        with pytest.raises(ModelError, match=r"another text was begun .* use generate_many"):
            next(interrupted)


def test_nothing_is_asked_nothing_is_given(opened: engine.Model) -> None:
    assert list(opened.generate_many([])) == []
    with pytest.raises(ModelError, match="give 1 or more"):
        next(opened.generate_many(["a"], most=0))


def test_a_device_without_batches_says_so(opened: engine.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(opened.runner), "open_sequences", Runner.open_sequences)
    monkeypatch.setattr(opened, "_sequences", None)
    with pytest.raises(ModelError, match="decodes one text at a time"):
        next(opened.generate_many(["a"]))
