"""The shapes of a gated feed-forward network."""

from dataclasses import dataclass

from kernel_templates.problem import Problem, trait

GATE_FUNCTIONS = ("silu", "gelu")


@dataclass(frozen=True)
class Ffn(
    Problem,
    op="ffn",
    template_version=1,
    matrices={
        "gate": ("ffn", "hidden", "gate_format"),
        "up": ("ffn", "hidden", "up_format"),
        "down": ("hidden", "ffn", "down_format"),
    },
):
    """x [hidden] += y, y = W_down [hidden, ffn] (g(W_gate n) * (W_up n)), W_gate and W_up [ffn, hidden],
    n = rmsnorm(x) * norm, g the `gate_function`: "silu", or "gelu" in its tanh form. If `post_norm` is 1,
    x += rmsnorm(y) * post_norm instead; then, if `out_scale` is 1, x is multiplied with out_scale [1], which only a
    layer with post norms has. ValueError for one without."""

    hidden: int
    ffn: int
    gate_format: str
    up_format: str
    down_format: str
    activation: str = "int16"
    gate_function: str = trait("silu", GATE_FUNCTIONS)
    post_norm: int = trait(0, (0, 1))
    out_scale: int = trait(0, (0, 1))

    def __post_init__(self) -> None:
        if self.out_scale and not self.post_norm:
            raise ValueError("ffn: out_scale=1 needs post_norm=1")
