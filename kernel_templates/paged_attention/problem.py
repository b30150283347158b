"""The shapes of attention over many rows at once."""

from dataclasses import dataclass, replace

from kernel_templates.attention import cache
from kernel_templates.problem import Problem, trait

EDGES = 64
"""Positions after which every kind of edge, of a tile, a page and a vector, has come: so many tokens meet them all."""


@dataclass(frozen=True)
class PagedAttention(Problem, op="paged_attention", template_version=1):
    """out [sequences * tokens, heads * head_dim]: `tokens` rows of each text at consecutive positions, each over its
    text's cached positions up to its own, in pages; heads / kv_heads query heads share each key.

    Scores, `window`, `softcap`, `scale`, `sinks` and `cache` as of `attention`. `context`: the positions of a text that
    it is tuned for; a configuration runs at any position, of texts of unlike lengths, up to the last page that a table
    names. A row of position -1 is unused: what it gives is finite, and nothing else.
    """

    sequences: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    window: int = trait(0)
    softcap: float = trait(0.0)
    scale: float = trait(0.0)
    sinks: int = trait(0, (0, 1))
    cache: str = trait(cache.F16, cache.FORMATS)

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads

    @property
    def reach(self) -> int:
        """The most positions that count for one row."""
        return min(self.context, self.window) if self.window else self.context

    @property
    def score_scale(self) -> float:
        return self.scale or 1.0 / self.head_dim**0.5

    @property
    def last_positions(self) -> tuple[int, ...]:
        """Of each text, as it is proved and timed: the first is at the end of the context, the others up to a quarter
        of it behind, none at the same place as long as there is room."""
        behind = (self.context // 4 * text // self.sequences for text in range(self.sequences))
        return tuple(max(self.context - 1 - back, self.tokens - 1) for back in behind)

    @property
    def proved_positions(self) -> tuple[int, ...]:
        """Where all rows stand in a further proof: at the first position, on both sides of a page's edge, and around
        the window's. A prompt's rows meet all of these by themselves."""
        if self.tokens >= EDGES:
            return ()
        around = (self.window - 1, self.window) if self.window else ()
        return tuple(p for p in dict.fromkeys((0, EDGES - 1, EDGES, *around)) if p < self.context - 1)

    @property
    def without_context(self) -> "PagedAttention":
        return replace(self, context=0)
