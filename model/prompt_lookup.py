"""Looks a text's last tokens up in the text itself, and proposes what followed them there (prompt lookup decoding)."""

from collections.abc import Iterable

LENGTHS = (5, 4, 3, 2)
"""Tokens that are looked up together, the longest first."""

BITS = 32
"""Of a token id."""

LONGEST = 16
"""A match is not measured beyond this many tokens."""


class PromptLookup:
    """A text, and where its last tokens stood before. A token costs the same however long the text is."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.text: list[int] = []
        self.match = 0
        """Tokens at the end of the text that stood just so before, at most LONGEST; 0 without a match. Of several
        places the one with the longest of LENGTHS counts, of those the most recent."""
        self._source = 0  # where in the text the token stands that followed the match
        # For each of LENGTHS, tokens -> where in the text they last ended. Tokens are joined to a number: tuples would
        # be hashed anew each time, and looked through for garbage.
        self._ends: dict[int, dict[int, int]] = {n: {} for n in LENGTHS}
        self._joined = [0] * (LENGTHS[0] + 1)  # the last n tokens, by n
        for token in tokens:
            self.push(token)

    @property
    def predicted(self) -> int | None:
        """The first token that would be proposed; None without a match."""
        return self.text[self._source] if self.match else None

    def push(self, token: int) -> None:
        """Add a token to the text."""
        before, length = (self._source, self.match) if self.match else (-1, 0)
        self.text.append(token)
        end, found = len(self.text), 0
        self._source = self.match = 0
        self._joined = joined = [0, *(shorter << BITS | token for shorter in self._joined[:-1])]
        for n, ends in self._ends.items():
            if n > end:
                continue
            key = joined[n]
            if not found and (earlier := ends.get(key, 0)):
                self._source, found = earlier, n
            ends[key] = end
        if found:
            known = length + 1 if self._source == before + 1 else found
            self.match = self._measured(known)

    def propose(self, count: int) -> list[int]:
        """`count` tokens; [] without a match. Where the text ends, they go on from themselves."""
        if not self.match:
            return []
        proposed = self.text[self._source : self._source + count]
        period = len(self.text) - self._source
        while len(proposed) < count:
            proposed.append(proposed[-period])
        return proposed

    def _measured(self, known: int) -> int:
        """The length of a match that is at least `known`."""
        text, source = self.text, self._source
        while known < min(LONGEST, source) and text[source - known - 1] == text[-known - 1]:
            known += 1
        return min(known, LONGEST)
