"""The shapes of a gated feed-forward network."""

from dataclasses import dataclass
from typing import ClassVar

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class Ffn(Problem):
    """x [hidden] += W_down [hidden, ffn] (silu(W_gate n) * (W_up n)), W_gate and W_up [ffn, hidden],
    n = rmsnorm(x) * norm."""

    op: ClassVar[str] = "ffn"
    template_version: ClassVar[int] = 1

    hidden: int
    ffn: int
    gate_format: str
    up_format: str
    down_format: str
    activation: str = "int16"
