"""Byte-level BPE from a GGUF file's own vocabulary, run by the `tokenizers` library.

The file names its pre-tokenizer (how text is cut before merging); the regular expressions are those of the models'
published tokenizer.json files. Like llama.cpp, and unlike those files, no Unicode normalization is applied: GGUF does
not record it, and decode(encode(text)) == text holds this way. Knows nothing of chat templates.
"""

import codecs
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from model import vocabulary_limits
from model.errors import ModelError, quoted
from model.gguf_metadata import Metadata

if TYPE_CHECKING:
    import tokenizers

# Token types of tokenizer.ggml.token_type, as in llama.h's enum llama_token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# Generation ends at these wherever a vocabulary has them; a file often declares only one of its two end tokens.
END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# name -> (most digits in one piece where a regular expression splits, else None; a whole word may be one token
# without merges; a BOS token is added unless the file says otherwise)
PRE_TOKENIZERS: dict[str, tuple[int | None, bool, bool]] = {
    "gpt-2": (None, False, False),
    "default": (None, False, False),
    "smollm": (None, False, False),
    "qwen2": (1, False, False),
    "llama-bpe": (3, True, True),
}


class Tokenizer:
    """Text to token ids and back. Make one with `from_metadata`.

    `vocab_size`; `bos`: id or None; `add_bos`: the file's own flag; `end_tokens`: ids at which generation stops.
    """

    def __init__(
        self, engine: "tokenizers.Tokenizer", tokens: list[str], special: frozenset[int], add_bos: bool
    ) -> None:
        self._engine, self._tokens, self._special = engine, tokens, special
        self._lock = threading.Lock()  # parse_special is a switch on the shared engine
        self.vocab_size = len(tokens)
        self.bos: int | None = None
        self.add_bos = add_bos
        self.end_tokens: frozenset[int] = frozenset()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from `tokenizer.ggml.*`. Raises ModelError for a kind we lack (named) or inconsistent metadata."""
        keys = Metadata(metadata, "tokenizer.ggml.")
        model, pre = keys.text("model"), keys.text("pre", "default", "pre-tokenizer")
        if model != "gpt2":
            raise ModelError(
                f"tokenizer model {quoted(model)} is not supported; use a model with byte-level BPE ('gpt2')"
            )
        if pre is None or pre not in PRE_TOKENIZERS:
            raise ModelError(f"pre-tokenizer {quoted(pre)} is not supported; supported are {', '.join(PRE_TOKENIZERS)}")
        vocabulary_limits.check(keys)
        tokens = _tokens(keys)
        types = keys.whole_numbers("token_type", len(tokens), NORMAL)
        special = frozenset(np.flatnonzero(np.isin(types, (UNKNOWN, CONTROL))).tolist())
        user = np.flatnonzero(types == USER_DEFINED).tolist()
        engine = _engine(pre, tokens, _merges(keys), sorted(special), user)
        self = cls(engine, tokens, special, keys.flag("add_bos_token", PRE_TOKENIZERS[pre][2]))
        self.bos = keys.token("bos_token_id", len(tokens))
        ends = {keys.token(key, len(tokens)) for key in END_KEYS}
        ends |= {engine.token_to_id(text) for text in END_TEXTS}
        self.end_tokens = frozenset(end for end in ends if end is not None)
        return self

    def encode(self, text: str, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `parse_special` turns "<|im_end|>" and the like into their control tokens: only for
        text the program wrote itself, such as a rendered chat template. Bytes missing from the vocabulary are dropped.

        Raises ModelError when a BOS is asked for but the file has none, or the text holds lone surrogates.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ModelError("the text holds a lone surrogate, which is not valid Unicode; remove it") from None
        with self._lock:
            self._engine.encode_special_tokens = not parse_special
            ids = self._engine.encode(text, add_special_tokens=False).ids
        if add_bos and self.bos is None:
            raise ModelError("a BOS token was asked for, but the model file names none; leave it out")
        if (self.add_bos if add_bos is None else add_bos) and self.bos is not None:
            ids.insert(0, self.bos)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises ModelError for an id outside the vocabulary."""
        return b"".join(self.token_bytes(i, skip_special) for i in ids).decode("utf-8", errors="replace")

    def stream(self, skip_special: bool = True) -> "Stream":
        """A decoder for tokens that arrive one by one; by default it leaves control tokens out."""
        return Stream(self, skip_special)

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling, e.g. "Ġthe". Raises ModelError for an id outside the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise ModelError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return self._tokens[token]

    def token_bytes(self, token: int, skip_special: bool = False) -> bytes:
        """The bytes a token stands for; a control token stands for its own text, or nothing with `skip_special`."""
        text = self.token_text(token)
        if token in self._special:
            return b"" if skip_special else text.encode()
        table = byte_characters()
        # User-defined tokens may hold characters that stand for themselves, a plain space for instance.
        return b"".join(table[c] if c in table else c.encode() for c in text)


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


@lru_cache(maxsize=1)
def byte_characters() -> dict[str, bytes]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the other bytes for U+0100 onwards in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


def _engine(
    pre: str, tokens: list[str], merges: list[tuple[str, str]], special: list[int], user: list[int]
) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    digits, whole_words, _ = PRE_TOKENIZERS[pre]
    vocab = {text: index for index, text in enumerate(tokens)}
    if len(vocab) != len(tokens):
        repeated = next(text for index, text in enumerate(tokens) if vocab[text] != index)
        raise ModelError(f"token {quoted(repeated)} occurs twice in the vocabulary; the file is damaged, get it again")
    try:
        engine = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    except Exception as error:  # the library raises bare Exception for a merge of unknown tokens
        raise ModelError(f"the merges do not fit the vocabulary ({quoted(error)}); the file is damaged") from None
    if digits is not None:
        cut = pre_tokenizers.Split(Regex(_SPLIT % digits), behavior="isolated")
        steps = [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        if pre == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    engine.pre_tokenizer = pre_tokenizers.Sequence(steps)
    engine.add_special_tokens([AddedToken(tokens[i], normalized=False, special=True) for i in special if tokens[i]])
    engine.add_tokens([AddedToken(tokens[i], normalized=False, special=False) for i in user if tokens[i]])
    return engine


def _tokens(keys: Metadata) -> list[str]:
    tokens = keys.texts("tokens")
    if not tokens:
        raise ModelError("'tokenizer.ggml.tokens' is missing, empty or not a list of strings; the file is damaged")
    return tokens


def _merges(keys: Metadata) -> list[tuple[str, str]]:
    merges = keys.texts("merges")
    if merges is None:
        raise ModelError("'tokenizer.ggml.merges' is missing or not a list of strings; the file is damaged")
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise ModelError(f"merge {quoted(merge)} is not two tokens with a space between; the file is damaged")
        pairs.append((left, right))
    return pairs
