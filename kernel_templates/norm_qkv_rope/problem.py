"""The shapes of a layer's first kernel."""

from dataclasses import dataclass
from typing import ClassVar

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class NormQkvRope(Problem):
    """q, k, v = W n with n = rmsnorm(x) * norm, W of heads * head_dim (q) and kv_heads * head_dim (k, v) rows; then, if
    `qk_norm` is 1, RMSNorm of every q and k head; RoPE over the first `rope_dim` elements, pairs (i, i + rope_dim/2);
    k and v go to the cache at the current position."""

    op: ClassVar[str] = "norm_qkv_rope"
    template_version: ClassVar[int] = 1

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    qk_norm: int
    q_format: str
    k_format: str
    v_format: str
    activation: str = "int16"

    @property
    def parts(self) -> tuple[tuple[str, int, str], ...]:
        """(name, rows, format) of the three matrices, in the order of the output."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (("q", wide, self.q_format), ("k", narrow, self.k_format), ("v", narrow, self.v_format))
