"""SentencePiece's BPE, the kind of Llama 2, Mistral, Phi-3 and Gemma.

Of all neighbours that make a token together, those with the highest score are merged first, the leftmost of equals; a
character that is no token is spelled by its bytes.

Own code, because the `tokenizers` library ranks pairs: two ways to the same token are then unequal, and runs of one
character come out otherwise. Source: llm_tokenizer_spm in src/llama-vocab.cpp of llama.cpp.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush

SPACE = "▁"
"""U+2581 stands for a space in the tokens."""
CACHED_WORDS, CACHED_LENGTH = 1 << 16, 32


BOS, EOS, UNKNOWN = 1, 2, 0
"""Ids where a file names none."""


class SentencePieceBPE:
    """vocabulary: text -> id; scores: by id, of any kind that compares; space_prefix: a text that starts, or follows a
    special token, gets a space ahead; unknown: the id for a byte that is no token."""

    add_bos, forced_bos = True, False
    note: str | None = None

    def __init__(
        self, vocabulary: Mapping[str, int], scores: Sequence[float], space_prefix: bool, unknown: int | None
    ) -> None:
        self._vocabulary, self._scores, self.space_prefix = vocabulary, scores, space_prefix
        self.bos, self.eos = (token if token < len(vocabulary) else None for token in (BOS, EOS))
        unknown = UNKNOWN if unknown is None else unknown
        bytes_as_tokens = [vocabulary.get(f"<0x{byte:02X}>", vocabulary.get(chr(byte), unknown)) for byte in range(128)]
        bytes_as_tokens += [vocabulary.get(f"<0x{byte:02X}>", unknown) for byte in range(128, 256)]
        self._bytes = bytes_as_tokens
        self._word_border = _word_border(vocabulary)
        self._cached = lru_cache(CACHED_WORDS)(self._merge)

    def encode(self, text: str, starts: bool) -> list[int]:
        """Ids of `text`, which has no lone surrogates. starts: it is the first, or a special token comes before it."""
        text = text.replace(" ", SPACE)
        if starts and self.space_prefix:
            text = SPACE + text
        ids: list[int] = []
        for word in self._word_border.split(text):
            ids += self._cached(word) if len(word) <= CACHED_LENGTH else self._merge(word)
        return ids

    def decode_normal(self, text: str) -> bytes:
        return text.replace(SPACE, " ").encode()

    def _merge(self, word: str) -> list[int]:
        """Ids of a part of a text that no merge leaves. n log n in its length."""
        vocabulary, scores = self._vocabulary, self._scores
        pieces = list(word)
        last = len(pieces) - 1
        before, after = list(range(-1, last)), [*range(1, last + 1), -1]
        queue: list[tuple[float, int, int, str]] = []
        for left in range(last):
            both = pieces[left] + pieces[left + 1]
            if (token := vocabulary.get(both)) is not None:
                queue.append((-scores[token], left, left + 1, both))
        heapify(queue)
        while queue:
            _, left, right, both = heappop(queue)
            # A piece that was merged away is empty; one that has grown since makes another text.
            if not pieces[left] or not pieces[right] or len(pieces[left]) + len(pieces[right]) != len(both):
                continue
            pieces[left], pieces[right] = both, ""
            following = after[left] = after[right]
            if following >= 0:
                before[following] = left
                longer = both + pieces[following]
                if (token := vocabulary.get(longer)) is not None:
                    heappush(queue, (-scores[token], left, following, longer))
            if (previous := before[left]) >= 0:
                longer = pieces[previous] + both
                if (token := vocabulary.get(longer)) is not None:
                    heappush(queue, (-scores[token], previous, left, longer))
        ids: list[int] = []
        for piece in pieces:
            if not piece:
                continue
            if (token := vocabulary.get(piece)) is not None:
                ids.append(token)
            else:
                ids += [self._bytes[byte] for byte in piece.encode()]
        return ids


def _word_border(vocabulary: Mapping[str, int]) -> re.Pattern[str]:
    """Where a text can be cut without a change: before a space, unless some token has that space inside, after the same
    character. What is left are words, which come back."""
    between = "\ud800"  # in no text
    inside = set(re.findall(f"([^{SPACE}{between}]){SPACE}", between.join(vocabulary)))
    return re.compile(f"(?<![{SPACE}{re.escape(''.join(sorted(inside)))}])(?={SPACE})")
