"""BPE over characters, the kind of Gemma 4: spaces are U+2581, and pairs are merged by rank within a line.

A run of line breaks that is a token is that token, whatever the merges say; a character that is no token is spelled by
its bytes. Source: LLAMA_VOCAB_PRE_TYPE_GEMMA4 in src/llama-vocab.cpp of llama.cpp.
"""

import re
from collections.abc import Sequence

from model.tokenizers.merges import Merges

SPACE = "▁"
"""U+2581 stands for a space in the tokens."""
LINES = re.compile(r"[^\n]+|\n+")


class CharacterBPE:
    """Raises ModelError when the merges do not fit the vocabulary.

    vocabulary: text -> id; merges: "left right" by rank, both and the two together being tokens.
    """

    bos: int | None = None
    eos: int | None = None
    add_bos = forced_bos = True
    note: str | None = None
    space_prefix = False

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._merges = Merges(vocabulary, merges, byte_fallback=True)

    def encode(self, text: str, starts: bool) -> list[int]:
        """Ids of `text`, which has no lone surrogates; a byte that is no token is left out. starts: nothing here."""
        ids: list[int] = []
        for part in LINES.findall(text.replace(" ", SPACE)):
            whole = self._vocabulary.get(part) if part[0] == "\n" else None
            ids += self._merges.encode(part) if whole is None else [whole]
        return ids

    def decode_normal(self, text: str) -> bytes:
        return text.replace(SPACE, " ").encode()
