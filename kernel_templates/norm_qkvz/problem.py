"""The shapes of a gated delta net's projections."""

from dataclasses import dataclass

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class NormQkvz(
    Problem,
    op="norm_qkvz",
    template_version=1,
    matrices={  # in the order of the output
        "qkv": ("channels", "hidden", "qkv_format"),
        "z": ("value_size", "hidden", "z_format"),
        "beta": ("heads", "hidden", "gates_format"),
        "alpha": ("heads", "hidden", "gates_format"),
    },
):
    """projected = W n with n = rmsnorm(x) * norm, W the rows of four matrices, one behind the other: q and k of
    `key_heads` heads, v and z of `heads` heads, of `head_dim` elements each; then b and a, one number a head each."""

    hidden: int
    heads: int
    key_heads: int
    head_dim: int
    qkv_format: str
    z_format: str
    gates_format: str
    activation: str = "int16"

    @property
    def value_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Rows of q, k and v together."""
        return 2 * self.key_heads * self.head_dim + self.value_size
