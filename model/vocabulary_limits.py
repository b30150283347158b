"""Limits of a vocabulary, checked before a library sees it, which takes up to a hundred times the size in memory."""

import numpy as np

from model.errors import ModelError
from model.gguf_metadata import Metadata

# Far above any published vocabulary (262,144 tokens of 2 million characters; 6,500 of Gemma 3's, 80,000 characters, are
# looked for in every text). At all limits together the `tokenizers` library takes less than 1 GB.
MAX_TOKENS, MAX_MERGES = 1 << 20, 1 << 21
MAX_CHARACTERS = 1 << 24  # of all tokens
MAX_ADDED = 1 << 19  # characters of the tokens that are looked for in every text
MAX_ADDED_LENGTH = 256  # characters of one of them: as many lengths may be tried at every place of a text
NORMAL, UNUSED, BYTE = 1, 5, 6  # of llama.h's enum llama_token_type; every other type is looked for


def check(keys: Metadata) -> None:
    """keys: `tokenizer.ggml.*`. Raises ModelError for a vocabulary beyond a limit; what is no vocabulary at all is told
    where it is read."""
    tokens, merges = keys.texts("tokens") or [], keys.texts("merges") or []
    types = keys.whole_numbers("token_type", len(tokens), NORMAL)
    added = np.flatnonzero(~np.isin(types, (NORMAL, UNUSED, BYTE))).tolist()
    for count, most, what in (
        (len(tokens), MAX_TOKENS, "tokens"),
        (len(merges), MAX_MERGES, "merges"),
        (sum(map(len, tokens)), MAX_CHARACTERS, "characters in its tokens"),
        (sum(len(tokens[i]) for i in added), MAX_ADDED, "characters in its control and user-defined tokens"),
        (max((len(tokens[i]) for i in added), default=0), MAX_ADDED_LENGTH, "characters in one of these tokens"),
    ):
        if count > most:
            raise ModelError(
                f"the vocabulary has {count:,} {what}, more than {most:,}; the file is damaged, get it again"
            )
