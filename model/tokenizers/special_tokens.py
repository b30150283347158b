"""Tokens that are taken out of a text before it is cut and merged: control tokens, if asked for, and user-defined ones.

Which tokens are control tokens stands in the file, except for those that llama.cpp knows by their text: files often
give them another type, or name only one of their end tokens. Source of the texts and of the order of matches:
src/llama-vocab.cpp of llama.cpp.
"""

from collections.abc import Iterable, Mapping, Sequence, Set

END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip
"""Generation ends at these wherever a vocabulary has them."""
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
        # First two characters -> the lengths, in characters, of tokens that begin so.
        lengths: dict[str, set[int]] = {}
        for text in self._ranks:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {head: sorted(found) for head, found in lengths.items()}
        self._single = any(len(head) == 1 for head in lengths)

    def split(self, text: str, parse_special: bool) -> Sequence[str | int]:
        """Texts and, between them, ids of the tokens found. The longest tokens are taken first wherever they stand, of
        equal ones the first; what overlaps them is text."""
        found = sorted(self._occurrences(text, parse_special))
        if not found:
            return [text] if text else []
        taken = bytearray(len(text))
        ends: dict[int, tuple[int, int]] = {}
        for rank, start, length in found:
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

    def _occurrences(self, text: str, parse_special: bool) -> list[tuple[int, int, int]]:
        """(rank, start, length) of every token at every place."""
        found = []
        lengths, ranks, order = self._lengths, self._ranks, self._order
        for start in range(len(text)):
            heads = [text[start : start + 2]]
            if self._single:
                heads.append(text[start])
            for head in heads:
                for length in lengths.get(head, ()):
                    if start + length > len(text):
                        break
                    rank = ranks.get(text[start : start + length])
                    if rank is not None and (parse_special or order[rank] not in self._control):
                        found.append((rank, start, length))
        return found
