"""How the head can be built."""

from kernel_templates.cpu import knobs
from kernel_templates.cuda import knobs as cuda_knobs
from kernel_templates.head.problem import Head
from kernel_templates.space import Space


def cpu(problem: Head, features: frozenset[str]) -> Space:
    return Space(
        knobs.tile_parameters((problem.format,), features), (knobs.streams_divide((problem.format, problem.hidden)),)
    )


def cuda(problem: Head, device) -> Space:
    return cuda_knobs.product_space([(problem.format, problem.hidden)], quantizes=False, rows=problem.vocab)
