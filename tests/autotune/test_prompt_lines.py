"""Files of prompts: what a line may say, and that whatever is wrong is told with the line's number."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UserError
from autotune.commands import prompt_lines
from autotune.commands.prompt_lines import FIELDS, MOST_BYTES, read

GOOD = b'{"prompt": "hello"}\n'
USER = {"role": "user", "content": "hi"}
WRONG = {
    "no JSON": (b'{"prompt": "hello"', "it is no JSON ("),
    "a list": (b"[1]", "it is no JSON object"),
    "a text": (b'"hello"', "it is no JSON object"),
    "no UTF-8": (b'{"prompt": "\xff"}', "it is not UTF-8"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "it is not UTF-8"),
    "half a character": (rb'{"prompt": "\ud800"}', "half a character"),
    "half a character in metadata": (rb'{"prompt": "a", "metadata": {"\udc00": 1}}', "half a character"),
    "nested too deeply": (b'{"metadata": ' + b"[" * 100_000, "nests too deeply"),
    "NaN": (b'{"prompt": "a", "temperature": NaN}', "NaN is no number of JSON"),
    "infinite": (b'{"prompt": "a", "metadata": 1e999}', "too large a number"),
    "digits": (b'{"prompt": "a", "metadata": ' + b"9" * 5000 + b"}", "it is no JSON that can be used"),
    "twice": (b'{"prompt": "a", "prompt": "b"}', "a name stands twice"),
    "nothing": (b"{}", 'give it a "prompt" or "messages"'),
    "null": (b'{"prompt": null}', 'give it a "prompt" or "messages"'),
    "both": ({"prompt": "a", "messages": [USER]}, "not both"),
    "misspelt": ({"prompt": "a", "temprature": 1}, 'no field is called "temprature"; there are id, prompt'),
    "empty prompt": ({"prompt": ""}, 'its "prompt" is empty'),
    "prompt of numbers": ({"prompt": [1, 2]}, '"prompt" is no text'),
    "no messages": ({"messages": []}, '"messages" is no list of messages'),
    "messages are text": ({"messages": "hi"}, '"messages" is no list of messages'),
    "no message": ({"messages": [USER, 1]}, "every message must be"),
    "no content": ({"messages": [{"role": "user"}]}, "every message must be"),
    "system of a prompt": ({"prompt": "a", "system": "b"}, '"system" is for "messages"'),
    "system twice": ({"messages": [{"role": "system", "content": "a"}, USER], "system": "b"}, "leave one out"),
    "system is a number": ({"messages": [USER], "system": 1}, '"system" is no text'),
    "id of a list": ({"prompt": "a", "id": []}, '"id" is no text and no whole number'),
    "id of a half": ({"prompt": "a", "id": 0.5}, '"id" is no text and no whole number'),
    "id of truth": ({"prompt": "a", "id": True}, '"id" is no text and no whole number'),
    "tokens of none": ({"prompt": "a", "tokens": 0}, '"tokens" is no whole number of 1 or more'),
    "tokens of text": ({"prompt": "a", "max_tokens": "9"}, '"max_tokens" is no whole number of 1 or more'),
    "tokens of truth": ({"prompt": "a", "tokens": True}, '"tokens" is no whole number'),
    "tokens twice": ({"prompt": "a", "tokens": 1, "max_tokens": 1}, "which mean the same"),
    "cold": ({"prompt": "a", "temperature": -1}, "temperature is -1"),
    "temperature of text": ({"prompt": "a", "temperature": "1"}, '"temperature" is no number'),
    "top-k of a half": ({"prompt": "a", "top_k": 1.5}, '"top_k" is no whole number'),
    "top-p of nothing": ({"prompt": "a", "top_p": 0}, "top-p is 0"),
    "seed below": ({"prompt": "a", "seed": -1}, "seed is -1"),
    "too long": (b'{"prompt": "' + b"a" * MOST_BYTES + b'"}', "it is longer than 8 MiB"),
}


def lines(*documents: object) -> io.BytesIO:
    return io.BytesIO(b"".join(d if isinstance(d, bytes) else json.dumps(d).encode() + b"\n" for d in documents))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_told_by_its_number(complaint, tmp_path, name: str) -> None:
    wrong, said = WRONG[name]
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(GOOD + b"\n" + (wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode()) + b"\n" + GOOD)
    found = complaint("generate", "no-such.gguf", "--input", path)
    assert "line 3 of the input: " in found and said in found and len(found) < 400


@pytest.mark.parametrize("empty", [b"", b"\n \r\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_prompts(complaint, empty: bytes) -> None:
    assert "there is no prompt in the input" in complaint("generate", "no-such.gguf", "--input", "-", input=empty)


def test_a_file_that_is_not_there(complaint, tmp_path) -> None:
    assert "No such file" in complaint("generate", "no-such.gguf", "--input", tmp_path / "none.jsonl")
    assert "Is a directory" in complaint("generate", "no-such.gguf", "--input", tmp_path)


def test_an_id_stands_for_one_prompt() -> None:
    with pytest.raises(UserError, match="line 4 of the input: line 2 has the same id"):
        read(lines(GOOD, {"prompt": "a", "id": "x"}, GOOD, {"prompt": "b", "id": "x"}), False)
    assert len(read(lines(*({"prompt": "a", "id": i} for i in (1, "1", 2))), False)) == 3


def test_what_a_line_says() -> None:
    byte_order = b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n")
    settings = {"temperature": 1, "top_k": 3, "top_p": 0.5, "seed": 2}
    talk = {"messages": [USER], "system": "be brief", "max_tokens": 7, **settings, "metadata": [None], "id": 5}
    first, second, third = read(lines(byte_order, b"\n", talk, {"prompt": "a", "id": None, "tokens": None}), False)
    assert (first.prompt, first.line, first.index, first.key) == ("hello", 1, 0, ("index", 0))
    assert second.messages == ({"role": "system", "content": "be brief"}, USER) and second.prompt is None
    assert (second.tokens, second.sampling, second.metadata) == (7, settings, [None])
    assert (second.line, second.key, second.name) == (3, ("id", 5), "line 3 (id 5)")
    assert (third.id, third.tokens, third.sampling) == (None, None, {})
    (asked,) = read(lines({"prompt": "hi", "system": "s"}), as_chat=True)
    assert asked.messages == ({"role": "system", "content": "s"}, USER) and asked.prompt is None


def test_a_digest_is_of_all_that_a_line_says() -> None:
    same = [{"prompt": "a", "tokens": 3}, {"tokens": 3, "prompt": "a"}]
    others = [{"prompt": "a"}, {"prompt": "b", "tokens": 3}, {"prompt": "a", "tokens": 3, "metadata": 1}]
    assert len({line.digest for line in read(lines(*same), False)}) == 1
    assert len({line.digest for line in read(lines(*same, *others), False)}) == 4


@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("role", "content")), inner),
            max_leaves=4,
        ),
    ),
    st.booleans(),
)
def test_any_object_is_read_or_refused(document: dict, as_chat: bool) -> None:
    try:
        (made,) = read(lines(document), as_chat)
    except UserError as error:
        assert str(error).startswith("line 1 of the input: ")
    else:
        assert (made.prompt is None) != (made.messages is None)
        assert made.tokens is None or made.tokens >= 1


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        prompt_lines.read(io.BytesIO(data), False)
