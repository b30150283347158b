"""Token ids against llama.cpp's (pinned), what each pre-tokenizer splits, streaming, and forged vocabularies."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import vocabulary_limits
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Tokenizer
from model.tokenizers.byte_level_bpe import byte_characters
from model.tokenizers.character_bpe import CharacterBPE
from model.tokenizers.merges import FIRST_STEPS
from model.tokenizers.special_tokens import SpecialTokens

# Made with llama.cpp (llama-cpp-python 0.3.36) on the real file, without special tokens.
GOLDEN = {
    "Hello world! I'm sure they'll've known.": [19556, 905, 17, 339, 5248, 2090, 502, 3060, 3543, 1343, 30],
    "  two  spaces\n\n\tand a tab ": [216, 827, 216, 5600, 1116, 197, 397, 253, 10147, 216],
    "12345 3.14 ½ ٣": [33, 34, 35, 36, 37, 216, 35, 30, 33, 36, 216, 16738, 216, 164, 113],
    "naïve café 日本語 🎉": [3546, 46494, 37366, 17097, 241, 115, 40993, 179, 120, 248, 15107, 232, 227],
    "def f(x):\n    return x**2": [1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34],
    "<|im_start|>hi<|im_end|>\n": [44, 108, 306, 79, 3738, 108, 46, 6004, 44, 108, 306, 79, 486, 108, 46, 198],
}


@pytest.fixture(scope="module")
def real(real_model: Path) -> Tokenizer:
    return Tokenizer.from_metadata(open_gguf(real_model).metadata)


def small(pre: Any = "gpt-2", merges: Any = (), **changes: Any) -> dict[str, Any]:
    """Metadata of a vocabulary of all bytes, the tokens that `merges` make, one control and one user-defined token."""
    made = merges if isinstance(merges, tuple) else ()
    tokens = [*byte_characters(), *(m.replace(" ", "") for m in made), "<|im_end|>", "[user token]"]
    types = np.array([NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED], np.int32)
    metadata = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types}
    metadata["merges"] = list(merges) if isinstance(merges, tuple) else merges
    metadata |= {"eos_token_id": len(tokens) - 2, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def pieces(metadata: dict[str, Any], text: str, **how: Any) -> list[str]:
    tokenizer = Tokenizer.from_metadata(metadata)
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, **how)]


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_llama_cpp_s(real: Tokenizer, text: str) -> None:
    assert real.encode(text) == GOLDEN[text]
    assert real.decode(GOLDEN[text]) == text


def test_special_tokens_only_on_request(real: Tokenizer) -> None:
    assert real.encode("<|im_start|>user\nhi<|im_end|>\n", parse_special=True) == [1, 4093, 198, 6004, 2, 198]
    assert 1 not in real.encode("<|im_start|>")
    assert real.end_tokens == {0, 2, 4}  # 4 is <reponame>, after which llama.cpp stops too
    assert real.decode([1, 6004, 2]) == "<|im_start|>hi<|im_end|>"
    assert real.decode([1, 6004, 2], skip_special=True) == "hi"
    assert real.encode("hi") == [6004] and real.encode("hi", add_bos=True) == [1, 6004]
    assert real.token_text(905) == "Ġworld"


DIGITS = ("1 2", "12 3", "123 4")


@pytest.mark.parametrize(
    ("pre", "text", "merges", "expected"),
    [
        ("gpt-2", "1234", DIGITS, ["1234"]),
        ("default", "1234", DIGITS, ["123", "4"]),
        ("llama-bpe", "1234", DIGITS, ["123", "4"]),
        ("qwen2", "1234", DIGITS, ["1", "2", "3", "4"]),
        ("smollm", "1234", DIGITS, ["1", "2", "3", "4"]),
        ("gpt-2", "'S", ("' S",), ["'", "S"]),
        ("smollm", "'s", ("' s",), ["'s"]),
        ("qwen2", "'S", ("' S",), ["'S"]),
        ("llama-bpe", "'S", ("' S",), ["'S"]),
        ("gpt-2", "(a", ("( a",), ["(", "a"]),
        ("qwen2", "(a", ("( a",), ["(a"]),
        ("gpt-2", "!\n", ("! Ċ",), ["!", "\n"]),
        ("qwen2", "!\n", ("! Ċ",), ["!\n"]),
        ("qwen2", " \nb", ("Ġ Ċ", "Ċ b"), [" \n", "b"]),
        ("default", "a;b", ("a ;", "; b"), ["a", ";", "b"]),
        ("tekken", "aB", ("a B",), ["a", "B"]),
        ("deepseek-llm", "a\n\n", ("Ċ Ċ",), ["a", "\n", "\n"]),
    ],
)
def test_pre_tokenizers_split_differently(pre: str, text: str, merges: tuple[str, ...], expected: list[str]) -> None:
    assert pieces(small(pre, merges), text) == expected


def test_llama_bpe_takes_whole_words_without_merges() -> None:
    tokens = [*byte_characters(), "abc"]
    for pre, expected in (("llama-bpe", ["abc"]), ("qwen2", ["a", "b", "c"])):
        assert pieces(small(pre, tokens=tokens, token_type=None, eos_token_id=None), "abc") == expected


def test_user_defined_tokens_decode_to_their_own_text() -> None:
    tokens = [*byte_characters(), "naïve", " \t", "Ġx", "[PAD7]", "<x>"]
    types = np.array([NORMAL] * 256 + [USER_DEFINED] * 2 + [NORMAL, UNUSED, CONTROL], np.int32)
    tokenizer = Tokenizer.from_metadata(small(tokens=tokens, token_type=types, eos_token_id=None))
    ids = tokenizer.encode("so naïve \tNAÏVE <x>")
    assert 256 in ids and 257 in ids and tokenizer.decode(ids) == "so naïve \tNAÏVE <x>"
    assert [tokenizer.decode([token]) for token in range(256, 261)] == ["naïve", " \t", " x", "", "<x>"]
    assert tokenizer.decode([260], skip_special=True) == ""


def test_the_longest_special_token_is_taken_first_wherever_it_stands() -> None:
    tokens = [*byte_characters(), "<a>", "x<", "a><b>", "<b>", "日"]
    types = np.array([NORMAL] * 256 + [USER_DEFINED] * 5, np.int32)
    found = pieces(small(tokens=tokens, token_type=types, eos_token_id=None), "x<a><b>日<a>")
    assert found == ["x<", "a><b>", "日", "<a>"]


@pytest.mark.parametrize("parse_special", [False, True])
def test_a_text_in_which_tokens_begin_everywhere_takes_memory_for_a_few(parse_special: bool) -> None:
    """Places times lengths would be a million matches."""
    texts = {length: "a" * length for length in range(1, 201)}
    special = SpecialTokens(texts, control=set())
    tracemalloc.start()
    found = special.split("a" * 5099, parse_special)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [200] * 25 + [99] and peak < 5e6


def test_a_default_pre_tokenizer_is_told() -> None:
    for pre in (None, "default"):
        tokenizer = Tokenizer.from_metadata(small(pre))
        assert tokenizer.note and "quality" in tokenizer.note and "\n" not in tokenizer.note
    assert Tokenizer.from_metadata(small("gpt-2")).note is None


def test_of_two_equal_merges_the_first_has_the_rank() -> None:
    tokens = [*byte_characters(), "ab", "bc"]
    metadata = small(merges=["a b", "b c", "a b"], tokens=tokens, token_type=None, eos_token_id=None)
    assert pieces(metadata, "abc") == ["ab", "c"]


def test_end_tokens_are_known_by_their_text() -> None:
    texts = ("<end_of_turn>", "<|end|>", "<|file_sep|>", "<|fim_prefix|>")
    tokens = [*byte_characters(), *texts]
    metadata = small(tokens=tokens, token_type=None, eos_token_id=None)
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.end_tokens == {256, 257, 258}
    assert pieces(metadata, "a<|fim_prefix|>", parse_special=True) == ["a", "<|fim_prefix|>"]  # a control token too
    named = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.fim_sep_token_id": 3})
    assert named.end_tokens == {256, 257, 3}


SPM_WORDS = {"▁": -1.0, "▁a": -2.0, "ab": -2.5, "▁ab": -3.0, "b": -9.0, "a": -9.0, "aa": -4.0, "aaa": -4.0, "\n": -9.0}


def spm(words: dict[str, float] = SPM_WORDS, **changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary: unknown, BOS, EOS, all bytes, a control token, `words` with scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|user|>", *words]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [CONTROL] + [NORMAL] * len(words)
    scores = np.array([0.0] * 260 + list(words.values()), np.float32)
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        "scores": scores,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def spelled(metadata: dict[str, Any], text: str, **how: Any) -> list[str]:
    tokenizer = Tokenizer.from_metadata(metadata)
    return [tokenizer.token_text(token) for token in tokenizer.encode(text, **how)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", ["▁ab"]),
        ("aab", ["▁a", "ab"]),  # "▁a" before "ab", the higher score
        ("aaaa", ["▁a", "aaa"]),
        ("b ab", ["▁", "b", "▁ab"]),
        ("é", ["▁", "<0xC3>", "<0xA9>"]),
        ("b\n", ["▁", "b", "\n"]),
        ("", []),
        (" ", ["▁", "▁"]),
    ],
)
def test_sentencepiece_merges_the_highest_score_first(text: str, expected: list[str]) -> None:
    assert spelled(spm(), text) == ["<s>", *expected]
    tokenizer = Tokenizer.from_metadata(spm())
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


def test_sentencepiece_leftmost_of_equal_scores() -> None:
    equal = dict.fromkeys(SPM_WORDS, -1.0)
    assert spelled(spm(equal, add_space_prefix=False), "aaaaa", add_bos=False) == ["aaa", "aa"]


def test_sentencepiece_word_that_goes_on_past_a_space() -> None:
    words = {**SPM_WORDS, "b▁": -0.5, "b▁a": -0.5}
    assert spelled(spm(words), "ab ab", add_bos=False) == ["▁a", "b▁a", "b"]


def test_sentencepiece_space_ahead() -> None:
    text = "ab<|user|>ab"
    assert spelled(spm(), text, add_bos=False, parse_special=True) == ["▁ab", "<|user|>", "▁ab"]
    bare = spm(add_space_prefix=False, add_bos_token=False)
    assert spelled(bare, text, parse_special=True) == ["ab", "<|user|>", "ab"]
    tokenizer = Tokenizer.from_metadata(spm())
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("ab é")] == ["", " ab", " ", "", "é"]


def test_phi_3_swallows_whitespace_after_special_tokens() -> None:
    text, phi = "<|user|> \n\tab<s> b", {"general.name": "Phi-3 mini 4k"}
    assert spelled(spm() | phi, text, add_bos=False, parse_special=True) == ["<|user|>", "▁ab", "<s>", "▁", "▁", "b"]


def test_sentencepiece_ids_that_the_file_does_not_name() -> None:
    tokenizer = Tokenizer.from_metadata(spm())
    assert (tokenizer.bos, tokenizer.add_bos, tokenizer.end_tokens) == (1, True, {2})
    changed = Tokenizer.from_metadata(spm(bos_token_id=259, eos_token_id=5, add_bos_token=False))
    assert (changed.bos, changed.add_bos, changed.end_tokens) == (259, False, {2, 5})  # </s> ends by its text
    few = ["<unk>", "a", "b"]
    assert spelled(spm(tokens=few, token_type=None, scores=None, add_space_prefix=False), "axb") == [
        "a",
        "a",
        "<unk>",
        "b",
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scores": np.zeros(3, np.float32)}, "scores"),
        ({"scores": np.full(269, np.nan, np.float32)}, "scores"),
        ({"scores": "x"}, "scores"),
        ({"add_space_prefix": 1}, "add_space_prefix"),
        ({"unknown_token_id": 9999}, "unknown_token_id"),
    ],
)
def test_forged_sentencepiece_metadata_is_one_line(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer.from_metadata(spm(**changes))
    assert named in str(caught.value) and str(caught.value).isprintable()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_sentencepiece_round_trip(text: str) -> None:
    tokenizer = Tokenizer.from_metadata(spm())
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


def test_user_defined_tokens_always_match_and_control_tokens_on_request() -> None:
    assert "[user token]" in pieces(small(), "a[user token]b")
    assert "<|im_end|>" not in pieces(small(), "a<|im_end|>")
    assert pieces(small(), "a<|im_end|>", parse_special=True) == ["a", "<|im_end|>"]


def test_bos() -> None:
    assert Tokenizer.from_metadata(small("llama-bpe", bos_token_id=7)).encode("a")[0] == 7
    assert Tokenizer.from_metadata(small("llama-bpe", bos_token_id=7, add_bos_token=False)).encode("a") != [7]
    tokenizer = Tokenizer.from_metadata(small(add_bos_token=True))
    assert len(tokenizer.encode("a")) == 1
    with pytest.raises(ModelError, match="BOS"):
        tokenizer.encode("a", add_bos=True)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["gpt-2", "qwen2", "smollm", "llama-bpe"]))
def test_round_trip_and_stream(text: str, pre: str) -> None:
    tokenizer = Tokenizer.from_metadata(small(pre, ("h e", "l l", "Ġ t")))
    ids = tokenizer.encode(text, add_bos=False)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream(skip_special=False)
    parts = [stream.push(token) for token in ids]
    assert "".join(parts) + stream.flush() == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_stream_holds_back_unfinished_characters() -> None:
    tokenizer = Tokenizer.from_metadata(small())
    stream, ids = tokenizer.stream(), tokenizer.encode("é🎉")
    assert [stream.push(token) for token in ids[:-1]] == ["", "é", "", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(tokenizer.encode("<|im_end|>", parse_special=True)[0]) == ""


def test_lone_surrogates_and_wrong_ids() -> None:
    tokenizer = Tokenizer.from_metadata(small())
    with pytest.raises(ModelError, match="surrogate"):
        tokenizer.encode("a\ud800")
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ModelError, match="outside the vocabulary"):
            tokenizer.decode([token])


def characters(**changes: Any) -> dict[str, Any]:
    """Gemma 4's kind: all bytes as tokens, and what the merges make of a, b, spaces and line breaks."""
    merges = ["\n \n", "\n\n \n\n", "▁ a", "a b", "▁a ▁a"]
    tokens = ["<bos>", "<eos>", "</s>", "<|tool_response>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["a", "b", "▁", "\n", *(merge.replace(" ", "") for merge in merges), "\n\n\n"]
    types = np.array([CONTROL] * 4 + [BYTE] * 256 + [NORMAL] * (len(tokens) - 260), np.int32)
    metadata = {"model": "gemma4", "tokens": tokens, "token_type": types, "merges": merges, "bos_token_id": 0}
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a ab", ["▁a▁a", "b"]),  # a lower rank first, over a space
        ("ab a", ["ab", "▁a"]),
        ("a\n\n\nb", ["a", "\n\n\n", "b"]),  # no merge makes it
        ("\n" * 5, ["\n\n\n\n", "\n"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("", []),
    ],
)
def test_characters_merge_within_a_line(text: str, expected: list[str]) -> None:
    tokenizer = Tokenizer.from_metadata(characters())
    assert spelled(characters(), text) == ["<bos>", *expected]
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


def test_gemma_4_s_ends_and_its_bos_token() -> None:
    """`</s>` is a word there, and a file that asks for no BOS token gets one."""
    tokenizer = Tokenizer.from_metadata(characters(add_bos_token=False))
    assert tokenizer.add_bos and tokenizer.end_tokens == {1, 3}
    assert tokenizer.encode("</s>", parse_special=True, add_bos=False) != [2] and tokenizer.decode([2]) == "</s>"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "bert"}, "'bert'"),
        ({"model": None}, "None"),
        ({"pre": "kimi-k2"}, "'kimi-k2'"),
        ({"pre": ["x"]}, "pre-tokenizer"),
        ({"tokens": None}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": ["a", 3]}, "tokens"),
        ({"tokens": np.arange(4)}, "tokens"),
        ({"tokens": ["a", "a"], "token_type": None, "eos_token_id": None}, "occurs twice"),
        ({"token_type": np.ones(3, np.int32)}, "token_type"),
        ({"token_type": np.ones(258)}, "token_type"),
        ({"token_type": "x"}, "token_type"),
        ({"merges": None}, "merges"),
        ({"model": "gemma4", "merges": None}, "merges"),
        ({"model": "gemma4", "merges": ["absent gone"]}, "does not fit"),
        ({"merges": ["a"]}, "merge 'a'"),
        ({"merges": ["absent gone"]}, "does not fit"),
        ({"merges": ["a b"]}, "does not fit"),
        ({"merges": [f"{'a' * 90} {'b' * 90}"]}, "does not fit"),
        ({"eos_token_id": 258}, "eos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"bos_token_id": "x"}, "bos_token_id"),
        ({"add_bos_token": 3}, "add_bos_token"),
    ],
)
def test_forged_metadata_is_one_line(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer.from_metadata(small(**changes))
    assert named in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("MAX_TOKENS", 200, "tokens, more than 200"),
        ("MAX_MERGES", 1, "2 merges, more than 1"),
        ("MAX_CHARACTERS", 250, "characters in its tokens, more than 250"),
        ("MAX_ADDED", 9, "characters in its control and user-defined tokens, more than 9"),
        ("MAX_ADDED_LENGTH", 9, "characters in one of these tokens, more than 9"),
    ],
)
def test_lengths_are_limited_before_the_library_sees_them(monkeypatch, limit: str, most: int, said: str) -> None:
    plain = small(merges=("a b", "ab c"))
    count = len(plain["tokenizer.ggml.tokens"])
    kinds = np.full(count + 1, NORMAL)
    kinds[-1] = CONTROL
    metadata = plain | {
        "tokenizer.ggml.tokens": [*plain["tokenizer.ggml.tokens"], "<|control|>"], "tokenizer.ggml.token_type": kinds,
    }  # fmt: skip
    Tokenizer.from_metadata(metadata)
    monkeypatch.setattr(vocabulary_limits, limit, most)
    with pytest.raises(ModelError, match=said):
        Tokenizer.from_metadata(metadata)


@pytest.mark.timing
def test_a_big_vocabulary_loads_within_two_seconds(make_model: Any) -> None:
    tokens, merges, types = make_model.vocabulary(151936, 290, False, np.random.default_rng(0))
    changes = {"tokens": tokens, "merges": merges, "token_type": np.array(types, np.int32), "eos_token_id": 151645}
    start = time.perf_counter()
    tokenizer = Tokenizer.from_metadata(small("qwen2", **changes))
    assert time.perf_counter() - start < 2  # 0.8 s on an idle core
    assert tokenizer.end_tokens == {151643, 151645}


PAIRS = [a + " " + b for a in "abĠ" for b in "abĠ"] + ["ab ab", "Ġ ab", "aa b", "a ab", "aba b", "Ġa bĠ"]


@given(
    merges=st.lists(st.sampled_from(PAIRS), max_size=9), texts=st.lists(st.text("ab é", max_size=30), max_size=6),
    pre=st.sampled_from(["gpt-2", "llama-bpe"]),
)  # fmt: skip
def test_the_first_texts_are_merged_as_the_library_does(merges: list[str], texts: list[str], pre: str) -> None:
    made = {part for merge in merges for part in (*merge.split(" "), merge.replace(" ", ""))}
    tokens = sorted({*byte_characters(), *made})
    metadata = {f"tokenizer.ggml.{k}": v for k, v in {"model": "gpt2", "pre": pre, "tokens": tokens}.items()}
    first, later = (Tokenizer.from_metadata({**metadata, "tokenizer.ggml.merges": merges}) for _ in range(2))
    later.encode("a" * (FIRST_STEPS + 1))
    assert first._model._merges._library is None and later._model._merges._library is not None  # type: ignore
    for text in texts:
        assert first.encode(text) == later.encode(text)


@given(texts=st.lists(st.text("ab \né", max_size=20), max_size=5))
def test_the_first_texts_of_characters_too(texts: list[str]) -> None:
    merges = ["\n \n", "\n\n \n\n", "▁ a", "a b", "▁a ▁a"]
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "\n"]
    vocabulary = {text: i for i, text in enumerate([*tokens, *(merge.replace(" ", "") for merge in merges)])}
    first, later = CharacterBPE(vocabulary, merges), CharacterBPE(vocabulary, merges)
    later.encode("a" * (FIRST_STEPS + 1), True)
    assert later._merges._library is not None
    for text in texts:
        assert first.encode(text, True) == later.encode(text, True)
