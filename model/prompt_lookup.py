"""Looks a text's last tokens up in the text itself, and proposes what followed them there (prompt lookup decoding)."""

from collections.abc import Iterable

LENGTHS = (5, 4, 3, 2)
"""Tokens that are looked up together, the longest first."""

BITS = 32
"""Of a token id."""

NONE = -1
"""Before the first token of a text, where tokens are joined."""

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
        # For 2, 3, 4 and 5 tokens, the tokens -> where in the text they last ended. They are joined to a number: tuples
        # would be hashed anew each time, and looked through for garbage.
        self._ends: tuple[dict[int, int], ...] = ({}, {}, {}, {})
        self._joined = (NONE,) * 4  # the last token, the last two, three and four
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
        end, source, found = len(self.text), 0, 0
        # Written out, which takes half the time of a loop: a GPU has nothing to do while a pass's tokens are added.
        one, two, three, four = self._joined
        pair, triple = one << BITS | token, two << BITS | token
        quad, five = three << BITS | token, four << BITS | token
        self._joined = token, pair, triple, quad
        ends_2, ends_3, ends_4, ends_5 = self._ends
        if earlier := ends_2.get(pair, 0):
            source, found = earlier, 2
        if earlier := ends_3.get(triple, 0):
            source, found = earlier, 3
        if earlier := ends_4.get(quad, 0):
            source, found = earlier, 4
        if earlier := ends_5.get(five, 0):
            source, found = earlier, 5
        ends_2[pair] = ends_3[triple] = ends_4[quad] = ends_5[five] = end
        self._source = source
        self.match = self._measured(length + 1 if source == before + 1 else found) if found else 0

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
        most = min(LONGEST, source)
        while known < most and text[source - known - 1] == text[-known - 1]:
            known += 1
        return min(known, LONGEST)
