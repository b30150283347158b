"""Byte-level BPE, the kind of GPT-2: text is cut by a pre-tokenizer, bytes are spelled as characters, and pairs of them
are merged by rank. The `tokenizers` library cuts it.

Like llama.cpp, and unlike the models' tokenizer.json files, no Unicode normalization is applied: GGUF does not record
it, and decode(encode(text)) == text holds this way.
"""

from collections.abc import Sequence
from functools import lru_cache

from model.tokenizers.merges import Merges
from model.tokenizers.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

DEFAULT_NOTE = (
    "the model file names no pre-tokenizer, so text is cut by llama.cpp's default rule, which may cost quality; "
    "files made by a current converter name one"
)


class ByteLevelBPE:
    """Raises ModelError when the merges do not fit the vocabulary.

    vocabulary: text -> id; merges: "left right" by rank, both and the two together being tokens.
    """

    bos: int | None = None
    eos: int | None = None
    note: str | None
    space_prefix = forced_bos = False

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[str], pre: PreTokenizer) -> None:
        from tokenizers import Regex, pre_tokenizers

        self.add_bos = pre.add_bos
        self.note = DEFAULT_NOTE if pre is PRE_TOKENIZERS["default"] else None
        cuts = [pre_tokenizers.Split(Regex(stage), behavior="isolated") for stage in pre.stages]
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._merges = Merges(vocabulary, merges, pre_tokenizers.Sequence([*cuts, spell]), whole_words=pre.whole_words)

    def encode(self, text: str, starts: bool) -> list[int]:
        """Ids of `text`, which has no lone surrogates; a byte that is no token is left out. starts: nothing here."""
        return self._merges.encode(text)

    def decode_normal(self, text: str) -> bytes:
        """The bytes that a token spells; a character that spells none stands for itself."""
        table = byte_characters()
        return b"".join(table[c] if c in table else c.encode() for c in text)


@lru_cache(maxsize=1)
def byte_characters() -> dict[str, bytes]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the other bytes for U+0100 onwards in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(plain)]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}
