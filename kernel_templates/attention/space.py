"""How decoding attention can be built."""

from kernel_templates.attention.problem import Attention
from kernel_templates.space import Constraint, Parameter, Space


def cpu(problem: Attention, features: frozenset[str]) -> Space:
    return Space(
        (
            Parameter("chunk", (64, 128, 256, 512), 128, "positions a thread takes at a time"),
            Parameter("positions_together", (16, 32, 64), 16, "positions scored by one vector"),
            Parameter("heads_together", (1, 2, 4), 1, "query heads that share one pass over the values"),
        ),
        (
            Constraint(
                "whole groups",
                f"{problem.heads // problem.kv_heads} query heads share a key head: passes must divide them",
                lambda c: (problem.heads // problem.kv_heads) % c["heads_together"] == 0,
            ),
        ),
    )
