"""How the head can be built."""

from kernel_templates.cpu import parameters
from kernel_templates.cuda import parameters as cuda_knobs
from kernel_templates.head.problem import Head
from kernel_templates.space import Space


def cpu(problem: Head, features: frozenset[str]) -> Space:
    return Space(
        parameters.tile_parameters((problem.format,), features),
        (parameters.streams_divide((problem.format, problem.hidden)),),
    )


def cuda(problem: Head, device) -> Space:
    return cuda_knobs.product_space([(problem.format, problem.hidden)], quantizes=False, rows=problem.vocab)
