"""How a matrix-vector product can be built."""

from kernel_templates.cpu import parameters
from kernel_templates.cuda import parameters as cuda_knobs
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Space


def cpu(problem: Matvec, features: frozenset[str]) -> Space:
    return Space(
        parameters.tile_parameters((problem.format,), features),
        (parameters.streams_divide((problem.format, problem.cols)),),
    )


def cuda(problem: Matvec, device) -> Space:
    return cuda_knobs.product_space([(problem.format, problem.cols)], quantizes=True, rows=problem.rows)
