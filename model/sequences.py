"""What a backend offers to decode several texts at once: join, step, leave, over a KV cache that they share.

It trusts its caller: tokens are in the vocabulary and positions inside the context.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from model.sampling import Sampler

BROKEN = -1
"""In a token's place: the logits it would be chosen from are not numbers."""


class Sequences(ABC):
    """Texts that are decoded together, each at its own position. A text has a number, never given twice."""

    most: int
    """Texts that may be there at once."""
    context: int
    """Positions of one text."""
    ahead: int = 2
    """Steps worth sending before the first of them is received: where a device computes, the host prepares the next
    step meanwhile. A text that ends is in so many steps less one for nothing."""

    @abstractmethod
    def join(self, prompt: Sequence[int], tokens: int, sampler: Sampler) -> int | None:
        """A new text: its prompt goes into the cache, and the next `send` chooses its first token. Its number; None,
        and nothing happened, while `most` are there or memory does not hold the prompt and `tokens` more beside what
        the others were promised. Raises ModelError if it would not fit alone either."""

    @abstractmethod
    def send(self) -> None:
        """Start one step: a token is chosen for every text, and goes into the cache so that the next is known. Returns
        before the step is done."""

    @abstractmethod
    def receive(self) -> dict[int, int]:
        """The tokens of the oldest step sent and not yet received, by their text's number; waits for them. Texts that
        left since may be there too. BROKEN for a text whose logits are not numbers, which its caller lets leave."""

    @abstractmethod
    def leave(self, text: int) -> None:
        """Forget a text and free its memory. Steps already sent may still bring tokens of it."""

    @property
    @abstractmethod
    def cache_bytes(self) -> int:
        """What the texts' cache takes of memory now."""
