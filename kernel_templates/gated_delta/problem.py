"""The shapes of a gated delta net.

A layer of this kind is four calls: `norm_qkvz` projects, `gated_delta` does all that lies between the projections,
`matvec` projects back, `ffn` follows as after attention. On a GPU these are as many kernels as a layer with attention
has: the convolution is a few multiplications, which every program of a head repeats for what it reads.
"""

from dataclasses import dataclass, replace

from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class GatedDelta(Problem, op="gated_delta", template_version=1):
    """out [rows, heads * head_dim] of `projected` [rows, channels + heads * head_dim + 2 heads]: q, k, v, z and, of
    every head, b and a. For each row after the other, of head h with the query and key of head h mod key_heads:

        q, k, v = silu(sum over t < kernel of conv[kernel - 1 - t] * (q, k, v of t rows before))
        q, k = q / sqrt(|q|^2 + eps) / sqrt(head_dim), k / sqrt(|k|^2 + eps)
        S = exp(decay * softplus(a + dt_bias)) S
        S = S + sigmoid(b) (v - S k) k^T
        out = rmsnorm(S q) * norm * silu(z)

    (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464.) S [head_dim of v, head_dim of k] is the head's `state`, in
    float32; `conv_state` [kernel, channels] holds the q, k and v of position p at p mod kernel, so that a row's are
    written where no other part of this row reads. Position 0 begins a text: nothing is read of either then.

    `tokens` rows of each of `sequences` texts at consecutive positions.
    """

    heads: int
    key_heads: int
    head_dim: int
    kernel: int
    sequences: int = trait(1)
    tokens: int = trait(1)

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens

    @property
    def of_one_row(self) -> "GatedDelta":
        return replace(self, sequences=1, tokens=1)

    @property
    def value_size(self) -> int:
        """Elements of v, z and out."""
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Elements of q, and of k."""
        return self.key_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Elements of q, k and v together, which the convolution goes over."""
        return 2 * self.key_size + self.value_size

    @property
    def projected_size(self) -> int:
        """Elements of a row of `projected`."""
        return self.channels + self.value_size + 2 * self.heads

    @property
    def proved_positions(self) -> tuple[int, ...]:
        """The first row's positions at which the convolution reaches back before the text began; of a prompt, whose
        rows come by all of these, the first and the last."""
        return tuple(range(self.kernel)) if self.tokens < self.kernel else (0, self.kernel - 1)
