"""How what lies between a gated delta net's projections can be built."""

from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.space import Parameter, Space


def cpu(problem: GatedDelta, features: frozenset[str]) -> Space:
    """Nothing else is worth a choice: a row of the state stays in registers from reading to writing."""
    ahead = (0, 512, 1024, 2048, 4096, 8192)
    return Space((Parameter("prefetch", ahead, 1024, "bytes ahead that states are asked for"),), ())
