"""How a product of one matrix and one vector can be built."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.matvec.problem import Matvec
from kernel_templates.problem import Problem
from kernel_templates.space import Space


def cpu(problem: Problem, features: frozenset[str]) -> Space:
    """For any problem of one matrix."""
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without

    (matrix,) = problem.matrices
    return Space(
        parameters.tile_parameters((matrix.format,), features),
        (parameters.streams_divide((matrix.format, matrix.cols)),),
    )


def cuda(problem: Matvec, device) -> Space:
    return cuda_parameters.product_space([(problem.format, problem.cols)], quantizes=True, rows=problem.rows)
