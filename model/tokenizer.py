"""Text to token ids and back, as a GGUF file's own vocabulary has it: the tokens are llama.cpp's.

Special tokens are taken out of a text first (`tokenizers.special_tokens`); what is left goes through the kind of model
that the file names, byte-level BPE (`gpt2`), SentencePiece's (`llama`) or BPE over characters (`gemma4`). Knows nothing
of chat templates.
"""

import codecs
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from model import vocabulary_limits
from model.errors import ModelError, quoted
from model.gguf_metadata import Metadata
from model.tokenizers.byte_level_bpe import ByteLevelBPE
from model.tokenizers.character_bpe import CharacterBPE
from model.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from model.tokenizers.sentencepiece import SentencePieceBPE
from model.tokenizers.special_tokens import (
    END_TEXTS,
    ENDING_FILLS,
    FILL_TEXTS,
    GEMMA_4,
    LLAMA_END,
    SpecialTokens,
)

# Token types of tokenizer.ggml.token_type, as in llama.h's enum llama_token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Phi-3's special tokens swallow the whitespace after them, but for these; GGUF records neither, llama.cpp goes by name.
PHI_3_NAMES, PHI_3_KEEPS_WHITESPACE = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")


class TextModel(Protocol):
    """One kind of vocabulary: turns text without special tokens into ids, and a normal token into its bytes."""

    bos: int | None
    """Ids where the file names none, of those that the kind always has."""
    eos: int | None
    add_bos: bool
    """Whether a BOS token goes ahead unless the file says otherwise."""
    forced_bos: bool
    """It goes ahead whatever the file says."""
    space_prefix: bool
    """It puts a space before a text."""
    note: str | None
    """A sentence for the user when the file leaves something to be guessed."""

    def encode(self, text: str, starts: bool) -> list[int]: ...

    def decode_normal(self, text: str) -> bytes: ...


class Tokenizer:
    """Text to token ids and back. Make one with `from_metadata`.

    `vocab_size`; `bos`: id or None; `add_bos`: the file's own flag; `end_tokens`: ids at which generation stops;
    `note`: a sentence for the user, or None.
    """

    def __init__(self, model: TextModel, tokens: list[str], types: np.ndarray, special: SpecialTokens) -> None:
        """types: int [vocab], as of `tokenizer.ggml.token_type`."""
        self._model, self._tokens, self._types, self._special = model, tokens, types, special
        self.vocab_size = len(tokens)
        self.bos, self.add_bos, self.note = model.bos, model.add_bos, model.note
        self.end_tokens: frozenset[int] = frozenset()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from `tokenizer.ggml.*`. Raises ModelError for a kind we lack (named) or inconsistent metadata."""
        keys = Metadata(metadata, "tokenizer.ggml.")
        kind = keys.text("model")
        if kind not in KINDS:
            raise ModelError(
                f"tokenizer model {quoted(kind)} is not supported; use a model with byte-level BPE ('gpt2'), "
                "SentencePiece ('llama') or BPE over characters ('gemma4')"
            )
        vocabulary_limits.check(keys)
        tokens, ids = _vocabulary(keys)
        types = keys.whole_numbers("token_type", len(tokens), NORMAL).copy()
        ends = _marked_by_text(keys, ids, types)
        name = (Metadata(metadata).text("general.name") or "").lower()
        special = _special_tokens(tokens, types, phi_3=any(part in name for part in PHI_3_NAMES))
        model = KINDS[kind](keys, ids)
        self = cls(model, tokens, types, special)
        named = [keys.token(key, len(tokens)) for key in ("bos_token_id", *END_KEYS)]
        self.bos = model.bos if named[0] is None else named[0]
        self.add_bos = keys.flag("add_bos_token", model.add_bos) or model.forced_bos
        ends.add(model.eos if named[1] is None else named[1])
        self.end_tokens = frozenset(end for end in (*ends, *named[2:]) if end is not None)
        return self

    def encode(self, text: str, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `parse_special` turns "<|im_end|>" and the like into their control tokens. A byte that
        is no token is dropped, or the unknown token. A file's wish for an EOS token is not followed: prompts go on.

        Raises ModelError when a BOS is asked for but the file has none, or the text holds lone surrogates.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            # So Python reads bytes that are not UTF-8 from a terminal, a pipe or an argument.
            raise ModelError(
                "the text is not valid Unicode (a lone surrogate, or bytes that are not UTF-8); convert it to UTF-8"
            ) from None
        if add_bos and self.bos is None:
            raise ModelError("a BOS token was asked for, but the model file names none; leave it out")
        ids: list[int] = []
        if (self.add_bos if add_bos is None else add_bos) and self.bos is not None:
            ids.append(self.bos)
        starts = True
        for part in self._special.split(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._model.encode(part, starts)
            starts = isinstance(part, int)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, and the space that the model puts before a text is
        taken off again. Raises ModelError for an id outside the vocabulary."""
        data = b"".join(self.token_bytes(i, skip_special) for i in ids)
        return (data.removeprefix(b" ") if self._model.space_prefix else data).decode("utf-8", errors="replace")

    def stream(self, skip_special: bool = True) -> "Stream":
        """A decoder for tokens that arrive one by one after others; by default it leaves control tokens out."""
        return Stream(self, skip_special)

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling, e.g. "Ġthe" or "▁the". Raises ModelError for an id outside the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise ModelError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return self._tokens[token]

    def token_bytes(self, token: int, skip_special: bool = False) -> bytes:
        """The bytes a token stands for; a control token stands for its own text, or nothing with `skip_special`, an
        unused one for nothing."""
        text, kind = self.token_text(token), self._types[token]
        if kind == NORMAL:
            return self._model.decode_normal(text)
        if kind == USER_DEFINED:
            return text.encode()
        if kind in (CONTROL, UNKNOWN):
            return b"" if skip_special else text.encode()
        return _byte(text) if kind == BYTE else b""


class Stream:
    """Incremental decoding that holds back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Text that is complete after this token, maybe empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token, self._skip))

    def flush(self) -> str:
        """What is left at the end; an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _byte_level_bpe(keys: Metadata, ids: dict[str, int]) -> TextModel:
    name = keys.text("pre", "default", "pre-tokenizer")
    pre = PRE_TOKENIZERS.get(name or "")
    if pre is None:
        raise ModelError(f"pre-tokenizer {quoted(name)} is not supported; use another file or another model")
    return ByteLevelBPE(ids, _merges(keys), pre)


def _character_bpe(keys: Metadata, ids: dict[str, int]) -> TextModel:
    return CharacterBPE(ids, _merges(keys))


def _merges(keys: Metadata) -> list[str]:
    merges = keys.texts("merges")
    if merges is None:
        raise ModelError("'tokenizer.ggml.merges' is missing or not a list of strings; the file is damaged")
    return merges


def _sentencepiece(keys: Metadata, ids: dict[str, int]) -> TextModel:
    scores = keys.real_numbers("scores", len(ids), 0.0).tolist()
    return SentencePieceBPE(
        ids, scores, keys.flag("add_space_prefix", True), keys.token("unknown_token_id", len(ids))
    )  # fmt: skip


KINDS = {"gpt2": _byte_level_bpe, "llama": _sentencepiece, "gemma4": _character_bpe}
"""By `tokenizer.ggml.model`."""


def _vocabulary(keys: Metadata) -> tuple[list[str], dict[str, int]]:
    """The tokens' texts and their ids."""
    tokens = keys.texts("tokens")
    if not tokens:
        raise ModelError("'tokenizer.ggml.tokens' is missing, empty or not a list of strings; the file is damaged")
    if "" in tokens:  # llama.cpp gives them a text too
        tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(tokens)]
    ids = {text: index for index, text in enumerate(tokens)}
    if len(ids) != len(tokens):
        repeated = next(text for index, text in enumerate(tokens) if ids[text] != index)
        raise ModelError(f"token {quoted(repeated)} occurs twice in the vocabulary; the file is damaged, get it again")
    return tokens, ids


def _marked_by_text(keys: Metadata, ids: Mapping[str, int], types: np.ndarray) -> set[int | None]:
    """Make control tokens of those that are known by their text, in `types`; return those that end a text."""
    ends: set[int | None] = {ids[text] for text in END_TEXTS if text in ids}
    if GEMMA_4 in ids and LLAMA_END in ids:
        ends.remove(ids[LLAMA_END])
        types[ids[LLAMA_END]] = NORMAL
    control = set(ends)
    for key, texts in FILL_TEXTS.items():
        token = keys.token(key, len(ids))
        if token is None:
            token = next((ids[text] for text in texts if text in ids), None)
            control.add(token)
        if key in ENDING_FILLS:
            ends.add(token)
    types[[token for token in control if token is not None]] = CONTROL
    return ends


def _special_tokens(tokens: list[str], types: np.ndarray, phi_3: bool) -> SpecialTokens:
    texts = {int(i): tokens[i] for i in np.flatnonzero(np.isin(types, (UNKNOWN, CONTROL, USER_DEFINED)))}
    control = {token for token in texts if types[token] != USER_DEFINED}
    strip = [token for token, text in texts.items() if phi_3 and text not in PHI_3_KEEPS_WHITESPACE]
    return SpecialTokens(texts, control, strip)


def _byte(text: str) -> bytes:
    """The byte that a token like <0x0A> names; none if it names none."""
    digits = text[3:5] if len(text) == 6 and text.startswith("<0x") and text.endswith(">") else ""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""
