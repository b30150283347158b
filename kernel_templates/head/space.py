"""How the head can be built: on the processor as any product of one matrix and one vector."""

from kernel_templates.cuda import parameters
from kernel_templates.head.problem import Head
from kernel_templates.matvec.space import cpu
from kernel_templates.space import Space

__all__ = ["cpu", "cuda"]


def cuda(problem: Head, device) -> Space:
    return parameters.product_space([(problem.format, problem.hidden)], quantizes=False, rows=problem.vocab)
