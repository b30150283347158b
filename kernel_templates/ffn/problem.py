"""The shapes of a gated feed-forward network."""

from dataclasses import dataclass

from kernel_templates.problem import Problem


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
    """x [hidden] += W_down [hidden, ffn] (silu(W_gate n) * (W_up n)), W_gate and W_up [ffn, hidden],
    n = rmsnorm(x) * norm."""

    hidden: int
    ffn: int
    gate_format: str
    up_format: str
    down_format: str
    activation: str = "int16"
