"""The shapes of decoding attention."""

from dataclasses import dataclass, replace

from kernel_templates.attention import cache
from kernel_templates.problem import Problem, trait

LONG = 2560
"""Positions from which attention takes much of a token: contexts beyond are tuned in smaller steps."""


@dataclass(frozen=True)
class Attention(Problem, op="attention", template_version=1):
    """out [heads, head_dim] for one position over `context` cached ones; heads / kv_heads query heads share each key.

    score = scale * q k, scale 0 standing for 1 / sqrt(head_dim); if `softcap` is not 0, then
    softcap * tanh(score / softcap); then softmax. If `window` is not 0, only the last `window` positions count, the
    present one among them. If `sinks` is 1, the softmax of each head has one more score, learned, without a value: its
    share of the weights is lost (https://arxiv.org/abs/2508.10925). If `output_gate` is 1, every head's query is
    followed by its gate [head_dim], and out is multiplied with sigmoid(gate). cache: the KV cache's format, one of
    `cache.FORMATS`.

    A configuration is for positions below `context`: proved at the last of them, at the first, at one just past the
    edge of a tile, and around the window's edge; timed on a GPU at a `typical` one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    context: int
    window: int = trait(0)
    softcap: float = trait(0.0)
    scale: float = trait(0.0)
    sinks: int = trait(0, (0, 1))
    output_gate: int = trait(0, (0, 1))
    cache: str = trait(cache.F16, cache.FORMATS)

    @property
    def reach(self) -> int:
        """The most positions that count at once: what a call costs grows with them, not with the context."""
        return min(self.context, self.window) if self.window else self.context

    @property
    def query_size(self) -> int:
        """Elements from one head's query to the next one's."""
        return self.head_dim * (1 + self.output_gate)

    @property
    def score_scale(self) -> float:
        return self.scale or 1.0 / self.head_dim**0.5

    @property
    def typical(self) -> "Attention":
        """What stands for all positions of a context: the middle of those from the context before it on, which is a
        quarter as long, or half as long if this is one of the `LONG`. Once the window is full, all are alike."""
        middle = -(-self.context * (6 if self.context > LONG else 5) // 8)
        return replace(self, context=max(middle, self.window if self.window < self.context else 0))

    @property
    def typical_position(self) -> int:
        return self.typical.context - 1

    @property
    def typical_reach(self) -> int:
        return self.typical.reach

    @property
    def proved_positions(self) -> tuple[int, ...]:
        """The first position, and the largest power of two within reach: there every tile of fewer positions is full,
        and the next has one. Then the last position before the window is full, the one that fills it, and the first
        that it leaves one behind at."""
        edge = 1 << (self.reach - 1).bit_length() - 1 if self.reach > 1 else 0
        around = (self.window - 2, self.window - 1, self.window) if self.window else ()
        return tuple(position for position in dict.fromkeys((0, edge, *around)) if 0 <= position < self.context - 1)

    @property
    def without_context(self) -> "Attention":
        return replace(self, context=0)
