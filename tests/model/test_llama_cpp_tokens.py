"""Our tokens are llama.cpp's, recorded by scripts/record_tokens: 300 texts, a small vocabulary of each kind, every name
of a pre-tokenizer. Where one differs, `scripts/check_tokens tests/fixtures/tokenizers/bpe.gguf` shows which text."""

import json
from pathlib import Path

import pytest
from token_texts import COUNT, digest, texts

from model.gguf_file import open_gguf
from model.tokenizer import Tokenizer
from model.tokenizers.pre_tokenizers import PRE_TOKENIZERS

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "tokenizers"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
FIRST = {id(pre): name for name, pre in reversed(PRE_TOKENIZERS.items())}
NAMES = {
    name: [other for other in PRE_TOKENIZERS if PRE_TOKENIZERS[other] is PRE_TOKENIZERS[name]]
    for name in FIRST.values()
}


def digest_of(file: str, changes: dict) -> str:
    metadata = {**open_gguf(FOLDER / file).metadata, **changes}
    tokenizer = Tokenizer.from_metadata({key: value for key, value in metadata.items() if value is not None})
    return digest(lambda text, add, parse: tokenizer.encode(text, None if add else False, parse))


@pytest.mark.parametrize("variant", GOLDEN["changes"])
def test_sentencepiece(variant: str) -> None:
    assert digest_of("sentencepiece.gguf", GOLDEN["changes"][variant]) == GOLDEN["digests"][variant]


def test_characters() -> None:
    """Gemma 4's kind, of a file that asks for no BOS token and gets one."""
    assert digest_of("characters.gguf", {}) == GOLDEN["digests"]["characters"]


@pytest.mark.parametrize("name", NAMES)
def test_pre_tokenizers_and_their_aliases(name: str) -> None:
    ours = digest_of("bpe.gguf", {"tokenizer.ggml.pre": name})
    assert {other: GOLDEN["digests"].get(other) for other in NAMES[name]} == dict.fromkeys(NAMES[name], ours)


def test_the_recorded_texts_tell_pre_tokenizers_apart() -> None:
    assert len(set(texts())) > 0.95 * COUNT
    assert len({GOLDEN["digests"][name] for name in NAMES}) == len(NAMES)
