"""Merges by rank, which byte-level BPE and Gemma 4's have in common, done by the `tokenizers` library."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from model.errors import ModelError, quoted

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def merging_engine(vocabulary: dict[str, int], merges: Sequence[str], **options: Any) -> "Tokenizer":
    """The library's BPE model with nothing before it. options: of its class `BPE`. Raises ModelError when the merges do
    not fit the vocabulary."""
    from tokenizers import Tokenizer, models

    pairs = _pairs(merges, vocabulary)
    try:
        return Tokenizer(models.BPE(vocabulary, pairs, **options))
    except Exception as error:  # the library has no class of its own for its errors
        raise ModelError(f"the merges do not fit the vocabulary ({quoted(error)}); the file is damaged") from None


def _pairs(merges: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges in order, of equal ones the first, as in llama.cpp; the library takes the last."""
    # The library panics at a merge that is longer than every token, and prints that, instead of raising its error.
    longest = max(map(len, map(str.encode, vocabulary)))
    if max(map(len, map(str.encode, merges)), default=0) > longest + 1:
        raise ModelError("the merges do not fit the vocabulary: one is longer than every token; the file is damaged")
    pairs = []
    for merge in dict.fromkeys(merges):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise ModelError(f"merge {quoted(merge)} is not two tokens with a space between; the file is damaged")
        pairs.append((left, right))
    return pairs
