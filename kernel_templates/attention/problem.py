"""The shapes of decoding attention."""

from dataclasses import dataclass, replace

from kernel_templates.problem import Problem

LONG = 2560
"""Positions from which attention takes much of a token: contexts beyond are tuned in smaller steps."""


@dataclass(frozen=True)
class Attention(Problem, op="attention", template_version=1):
    """out [heads, head_dim] for one position over `context` cached ones; heads / kv_heads query heads share each key.

    A configuration is for positions below `context`: proved at the last of them, timed on a GPU at a `typical` one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    context: int

    @property
    def typical(self) -> "Attention":
        """What stands for all positions of a context: the middle of those from the context before it on, which is a
        quarter as long, or half as long if this is one of the `LONG`."""
        return replace(self, context=-(-self.context * (6 if self.context > LONG else 5) // 8))

    @property
    def typical_position(self) -> int:
        return self.typical.context - 1

    @property
    def without_context(self) -> "Attention":
        return replace(self, context=0)
