"""The shapes of a layer's first kernel."""

from dataclasses import KW_ONLY, dataclass

from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class HeadShapes:
    """What x [hidden] is projected to: `heads` queries, `kv_heads` keys and values of `head_dim` elements each. RoPE
    turns the first `rope_dim` of them; qk_norm: 1 if queries and keys are normed before; qkv_bias: 1 if a bias is added
    to all three, before that; output_gate: 1 if each query is followed by as many elements of a gate for what attention
    gives the head, which are only projected; v_norm: 1 if values are normed too, without weights."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    qk_norm: int
    _: KW_ONLY
    qkv_bias: int = trait(0, (0, 1))
    output_gate: int = trait(0, (0, 1))
    v_norm: int = trait(0, (0, 1))

    @property
    def attended(self) -> int:
        """Elements of all heads, and of what attention gives."""
        return self.heads * self.head_dim

    @property
    def query_size(self) -> int:
        """Elements from one query to the next: a gate may lie between them."""
        return self.head_dim * (1 + self.output_gate)

    @property
    def q_rows(self) -> int:
        """Rows of the projection to queries, gates among them."""
        return self.heads * self.query_size

    @property
    def kv_rows(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class NormQkvRope(
    HeadShapes,
    Problem,
    op="norm_qkv_rope",
    template_version=1,
    matrices={  # in the order of the output
        "q": ("q_rows", "hidden", "q_format"),
        "k": ("kv_rows", "hidden", "k_format"),
        "v": ("kv_rows", "hidden", "v_format"),
    },
):
    """q, k, v = W n with n = rmsnorm(x) * norm, W of q_rows (q) and kv_heads * head_dim (k, v) rows; plus bias
    [q_rows + 2 kv_rows] if `qkv_bias` is 1; then, if `qk_norm` is 1, RMSNorm of every q and k head; if `v_norm` is 1,
    v / rms(v) of every v head; RoPE of q and k over the first `rope_dim` elements, pairs (i, i + rope_dim/2); k and v
    go to the cache at the current position. Without key-value heads there are only queries, for a cache that another
    layer writes, and k_format and v_format mean nothing."""

    q_format: str
    k_format: str
    v_format: str
    activation: str = "int16"
