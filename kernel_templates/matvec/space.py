"""How a matrix-vector product can be built."""

from kernel_templates.cpu import knobs
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Space


def cpu(problem: Matvec, features: frozenset[str]) -> Space:
    return Space(
        knobs.tile_parameters((problem.format,), features), (knobs.streams_divide((problem.format, problem.cols)),)
    )
