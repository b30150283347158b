"""The shapes of a matrix product with many tokens."""

from dataclasses import dataclass

from kernel_templates.problem import Problem, trait

GATES = ("", "silu", "gelu")


@dataclass(frozen=True)
class Matmul(Problem, op="matmul", template_version=1, matrices={"w": ("rows", "cols", "format")}):
    """y [tokens, rows] = x [tokens, cols] W^T, W [rows, cols] in `format`. With a `gate`, W is gate's rows and then
    up's, and y [tokens, rows / 2] = g(gate x) * (up x), g the function of that name."""

    rows: int
    cols: int
    format: str
    tokens: int
    gate: str = trait("", GATES)

    @property
    def outputs(self) -> int:
        """Of a token."""
        return self.rows // 2 if self.gate else self.rows
