"""The shapes of a layer's first kernel."""

from dataclasses import dataclass

from kernel_templates.problem import Matrix, Problem


@dataclass(frozen=True)
class HeadShapes(Problem):
    """What the projections of a layer and the whole layer have in common."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    qk_norm: int


@dataclass(frozen=True)
class NormQkvRope(HeadShapes, op="norm_qkv_rope"):
    """q, k, v = W n with n = rmsnorm(x) * norm, W of heads * head_dim (q) and kv_heads * head_dim (k, v) rows; then, if
    `qk_norm` is 1, RMSNorm of every q and k head; RoPE over the first `rope_dim` elements, pairs (i, i + rope_dim/2);
    k and v go to the cache at the current position."""

    q_format: str
    k_format: str
    v_format: str
    activation: str = "int16"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """In the order of the output."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            Matrix("q", wide, self.hidden, self.q_format),
            Matrix("k", narrow, self.hidden, self.k_format),
            Matrix("v", narrow, self.hidden, self.v_format),
        )
