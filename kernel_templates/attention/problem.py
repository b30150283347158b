"""The shapes of decoding attention."""

from dataclasses import dataclass
from typing import ClassVar

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class Attention(Problem):
    """out [heads, head_dim] for one position over `context` cached ones; heads / kv_heads query heads share each key.

    `context` is what a configuration is measured at; a kernel runs at any position.
    """

    op: ClassVar[str] = "attention"
    template_version: ClassVar[int] = 1

    heads: int
    kv_heads: int
    head_dim: int
    context: int
