"""Tokens that are taken out of a text before it is cut and merged: control tokens, if asked for, and user-defined ones.

Which tokens are control tokens stands in the file, except for those that llama.cpp knows by their text: files often
give them another type, or name only one of their end tokens. Source of the texts and of the order of matches:
src/llama-vocab.cpp of llama.cpp.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip
"""Generation ends at these wherever a vocabulary has them."""
LLAMA_END, GEMMA_4 = "</s>", "<|tool_response>"
"""The first is a word like any other in vocabularies that have the second, of Gemma 4's."""
FILL_TEXTS: dict[str, tuple[str, ...]] = {
    "fim_pre_token_id": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf_token_id": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid_token_id": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep_token_id": ("<|file_sep|>",),
}  # fmt: skip
"""Metadata key of each token that fills code in the middle -> its usual texts, for a file that does not name it."""
ENDING_FILLS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
"""Generation ends at these too."""
WHITESPACE = " \t\n\v\f\r"


class SpecialTokens:
    """Finds tokens in a text. texts: id -> text, none empty; control: ids that are matched only on request;
    strip_right: ids that swallow the whitespace after them."""

    def __init__(self, texts: Mapping[int, str], control: Set[int], strip_right: Iterable[int] = ()) -> None:
        self._control, self._strip_right = control, frozenset(strip_right)
        self._order = sorted(texts, key=lambda token: (-len(texts[token].encode()), token))
        self._ranks = {texts[token]: rank for rank, token in enumerate(self._order)}
        self._sizes = [len(texts[token].encode()) for token in self._order]
        """Bytes of each by rank."""
        # Bytes -> first two characters, or the only one, and lengths in characters of tokens that have so many.
        groups: dict[int, set[tuple[str, int]]] = {}
        for text, rank in self._ranks.items():
            groups.setdefault(self._sizes[rank], set()).add((text[:2], len(text)))
        self._groups = sorted(groups.items(), reverse=True)
        self._heads = {text[:2] for text in self._ranks}

    def split(self, text: str, parse_special: bool) -> Sequence[str | int]:
        """Texts and, between them, ids of the tokens found. The longest tokens are taken first wherever they stand, of
        equal ones the first; what overlaps them is text."""
        taken = bytearray(len(text))
        ends: dict[int, tuple[int, int]] = {}
        for rank, start, length in self._occurrences(text, parse_special, taken):
            token, end = self._order[rank], start + length
            if taken.find(1, start, end) >= 0:
                continue
            if token in self._strip_right:
                while end < len(text) and text[end] in WHITESPACE and not taken[end]:
                    end += 1
            taken[start:end] = b"\1" * (end - start)
            ends[start] = end, token
        parts: list[str | int] = []
        at = 0
        for start in sorted(ends):
            if start > at:
                parts.append(text[at:start])
            at, token = ends[start]
            parts.append(token)
        if at < len(text):
            parts.append(text[at:])
        return parts

    def _occurrences(self, text: str, parse_special: bool, taken: bytearray) -> Iterator[tuple[int, int, int]]:
        """(rank, start, length) of every token at every place that is not taken by then, in order of ranks. Those of
        one size are found at a time: all would be several for each character in a text of nothing but spaces."""
        starts: dict[str, list[int]] = {}
        for start in range(len(text)):
            for head in {text[start], text[start : start + 2]} & self._heads:
                starts.setdefault(head, []).append(start)
        for size, group in self._groups:
            found = []
            for head, length in group:
                for start in starts.get(head, ()):
                    if taken[start] or start + length > len(text):
                        continue
                    rank = self._ranks.get(text[start : start + length])
                    if rank is not None and self._sizes[rank] == size:
                        found.append((rank, start, length))
            for rank, start, length in sorted(found):
                if parse_special or self._order[rank] not in self._control:
                    yield rank, start, length
