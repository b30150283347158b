"""The shapes of a mixture of experts for one token."""

from dataclasses import dataclass

from kernel_templates.ffn import problem as ffn
from kernel_templates.problem import Matrix, Problem, trait

GATE_FUNCTIONS = (*ffn.GATE_FUNCTIONS, "swiglu_oai")
"""silu(g) u; gelu(g) u; gpt-oss's: min(g, 7) sigmoid(1.702 min(g, 7)) (1 + clamp(u, -7, 7)) (transformers 5.24,
`GptOssExperts`; ggml's `swiglu_oai`)."""
BESIDE = ("router_norm", "shared_norm", "experts_post_norm", "shared_post_norm", "expert_scale")
"""What a mixture with `beside` has: norms' weights [hidden], and a number of each expert [experts]."""
ROUTINGS = ("softmax", "softmax_of_chosen", "sigmoid")
"""How logits become weights: by softmax over all experts, over the chosen ones, or by a sigmoid each."""


@dataclass(frozen=True)
class Moe(
    Problem,
    op="moe",
    template_version=1,
    matrices={
        "router": ("experts", "hidden", "router_format"),
        "gate": ("all_ffn", "hidden", "gate_format"),
        "up": ("all_ffn", "hidden", "up_format"),
        "down": ("all_hidden", "ffn", "down_format"),
        "shared_gate": ("shared_ffn", "hidden", "shared_gate_format"),
        "shared_up": ("shared_ffn", "hidden", "shared_up_format"),
        "shared_down": ("hidden", "shared_ffn", "shared_down_format"),
        "shared_router": ("shared_gated", "hidden", "router_format"),
    },
):
    """x [hidden] += y, y = sum over the `used` chosen experts e of w_e W_down[e] (g(W_gate[e] n) * (W_up[e] n)),
    n = rmsnorm(x) * norm, g the `gate_function`.

    The experts with the largest logits W_router n are chosen, of equal ones the lower number first; `routing` makes
    weights of logits; with `normalized` 1 they are divided by their sum; then times `scale`. Matrices of all experts
    lie one below the other: gate and up [experts * ffn, hidden], down [experts * hidden, ffn]; a token reads those of
    its experts only. With `bias` 1 one is added to each product: the router's, gate, up and down. If `shared_ffn` is
    not 0, another expert of that size is always used, its weight 1 or, with `shared_gated` 1, sigmoid(W_shared_router
    n), of one row. If `post_norm` is 1, x += rmsnorm(y) * post_norm instead; then, if `out_scale` is 1, x is multiplied
    with out_scale [1].

    With `beside` 1 the shared expert is a network beside the mixture, as Gemma 4 has it: the router reads rmsnorm(x) *
    router_norm and the shared expert rmsnorm(x) * shared_norm; w_e is multiplied with expert_scale [experts]; y is
    rmsnorm(of the chosen experts) * experts_post_norm + rmsnorm(of the shared one) * shared_post_norm.

    ValueError for out_scale without a post norm, and for `beside` without both, a shared expert and a post norm.
    """

    hidden: int
    ffn: int
    experts: int
    used: int
    router_format: str
    gate_format: str
    up_format: str
    down_format: str
    activation: str = "int16"
    gate_function: str = trait("silu", GATE_FUNCTIONS)
    routing: str = trait("softmax", ROUTINGS)
    normalized: int = trait(0, (0, 1))
    scale: float = trait(1.0)
    bias: int = trait(0, (0, 1))
    shared_ffn: int = trait(0)
    shared_gate_format: str = trait("")
    shared_up_format: str = trait("")
    shared_down_format: str = trait("")
    shared_gated: int = trait(0, (0, 1))
    post_norm: int = trait(0, (0, 1))
    beside: int = trait(0, (0, 1))
    out_scale: int = trait(0, (0, 1))

    def __post_init__(self) -> None:
        if self.out_scale and not self.post_norm:
            raise ValueError("moe: out_scale=1 needs post_norm=1")
        if self.beside and not (self.post_norm and self.shared_ffn and not self.shared_gated and not self.bias):
            raise ValueError("moe: beside=1 needs post_norm=1 and shared_ffn, without shared_gated and bias")

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return tuple(m for m in super().matrices if m.rows * m.cols)

    @property
    def all_ffn(self) -> int:
        """Rows of gate, and of up."""
        return self.experts * self.ffn

    @property
    def all_hidden(self) -> int:
        """Rows of down."""
        return self.experts * self.hidden

    @property
    def gated(self) -> int:
        """Gated products of a token: those of its experts in their order, then the shared one's."""
        return self.used * self.ffn + self.shared_ffn
