"""Merges by rank, which byte-level BPE and Gemma 4's have in common.

The `tokenizers` library does it, but for the first short texts: its model of 150,000 merges takes 0.2 s to make, for
which a prompt of a few lines need not wait.
"""

from collections.abc import Mapping, Sequence
from itertools import count, pairwise, repeat
from typing import TYPE_CHECKING

from model.errors import ModelError, quoted

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

FIRST_STEPS = 50_000
"""Pairs that are looked at here before the library is asked: 10 ms, some thousand words."""


class Merges:
    """Cuts text into tokens: characters, of which neighbours are joined, the merge of lowest rank first.

    vocabulary: text -> id; merges: "left right" by rank, of equal ones the first, as in llama.cpp; cuts: into pieces
    that no merge reaches across; whole_words: a piece that is a token stays whole; byte_fallback: a character that is
    no token is spelled by the tokens of its bytes. One without any is left out. Raises ModelError when the merges do
    not fit the vocabulary.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], merges: Sequence[str], cuts: "PreTokenizer | None" = None,
        whole_words: bool = False, byte_fallback: bool = False,
    ) -> None:  # fmt: skip
        _check(merges, vocabulary)
        self._vocabulary, self._cuts = vocabulary, cuts
        self._whole_words, self._byte_fallback = whole_words, byte_fallback
        self._ranks = dict(zip(dict.fromkeys(merges), count(), strict=False))
        self._steps_left = FIRST_STEPS
        self._library: Tokenizer | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of a text that has no lone surrogates."""
        if self._library is None:
            pieces = [text] if self._cuts is None else [piece for piece, _ in self._cuts.pre_tokenize_str(text)]
            self._steps_left -= sum(len(piece) ** 2 for piece in pieces)
            if self._steps_left >= 0:
                return [self._vocabulary[token] for piece in pieces for token in self._joined(piece)]
            self._library = self._of_library()
        return self._library.encode(text, add_special_tokens=False).ids

    def _joined(self, piece: str) -> list[str]:
        if self._whole_words and piece in self._vocabulary:
            return [piece]
        tokens, none = [token for character in piece for token in self._spelled(character)], len(self._ranks)
        while len(tokens) > 1:
            pairs = enumerate(pairwise(tokens))
            rank, at = min((self._ranks.get(f"{left} {right}", none), at) for at, (left, right) in pairs)
            if rank == none:
                break
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
        return tokens

    def _spelled(self, character: str) -> list[str]:
        if character in self._vocabulary:
            return [character]
        spelled = [f"<0x{byte:02X}>" for byte in character.encode()] if self._byte_fallback else []
        return spelled if all(token in self._vocabulary for token in spelled) else []

    def _of_library(self) -> "Tokenizer":
        from tokenizers import Tokenizer, models

        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in self._ranks)]
        options = {"ignore_merges": self._whole_words, "byte_fallback": self._byte_fallback}
        made = Tokenizer(models.BPE(dict(self._vocabulary), pairs, **options))
        if self._cuts is not None:
            made.pre_tokenizer = self._cuts
        self._ranks.clear()
        return made


def _check(merges: Sequence[str], vocabulary: Mapping[str, int]) -> None:
    """Raises ModelError; of 150,000 merges in 50 ms."""
    if not set(map(str.count, merges, repeat(" "))) <= {1}:
        other = next(merge for merge in merges if merge.count(" ") != 1)
        raise ModelError(f"merge {quoted(other)} is not two tokens with a space between; the file is damaged")
    parts = " ".join(merges).split(" ") if merges else []
    known = vocabulary.__contains__
    if not (all(map(known, parts)) and all(map(known, map(str.replace, merges, repeat(" "), repeat(""))))):
        other = next(m for m in merges if not all(map(known, (*m.split(" "), m.replace(" ", "")))))
        raise ModelError(f"merge {quoted(other)} does not fit the vocabulary; the file is damaged")
