"""The shapes of a gated feed-forward network."""

from dataclasses import dataclass

from kernel_templates.problem import Matrix, Problem


@dataclass(frozen=True)
class Ffn(Problem, op="ffn"):
    """x [hidden] += W_down [hidden, ffn] (silu(W_gate n) * (W_up n)), W_gate and W_up [ffn, hidden],
    n = rmsnorm(x) * norm."""

    hidden: int
    ffn: int
    gate_format: str
    up_format: str
    down_format: str
    activation: str = "int16"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (
            Matrix("gate", self.ffn, self.hidden, self.gate_format),
            Matrix("up", self.ffn, self.hidden, self.up_format),
            Matrix("down", self.hidden, self.ffn, self.down_format),
        )
