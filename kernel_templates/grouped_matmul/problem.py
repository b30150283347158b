"""The shapes of a product of many rows with matrices of several experts."""

from dataclasses import dataclass

from kernel_templates.moe.problem import GATE_FUNCTIONS
from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class GroupedMatmul(Problem, op="grouped_matmul", template_version=1, matrices={"w": ("all_rows", "cols", "format")}):
    """y [tokens * used, rows]: row p, of token p // used and expert e_p, is W[e_p] x, x being row p // used of x
    [tokens, cols] or, if `x_of` is "pair", row p of x [tokens * used, cols]; W [experts * rows, cols].

    With a `gate`, W is the gates of all experts, rows / 2 of each, and below them their ups, and y [tokens * used, rows
    / 2] = g(gate x) * (up x), g the function of that name as of `Moe`; with `bias` 1, (gate x + b) and (up x + b).
    """

    rows: int
    cols: int
    format: str
    experts: int
    used: int
    tokens: int
    gate: str = trait("", ("", *GATE_FUNCTIONS))
    bias: int = trait(0, (0, 1))
    x_of: str = trait("token", ("token", "pair"))

    @property
    def all_rows(self) -> int:
        return self.experts * self.rows

    @property
    def outputs(self) -> int:
        """Of a pair."""
        return self.rows // 2 if self.gate else self.rows

    @property
    def pairs(self) -> int:
        """Tokens times the experts of each."""
        return self.tokens * self.used

    @property
    def share(self) -> int:
        """Pairs that have a row of x in common."""
        return self.used if self.x_of == "token" else 1
