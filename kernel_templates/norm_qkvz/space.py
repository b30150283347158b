"""How a gated delta net's projections can be built."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.space import Space


def cuda(problem: NormQkvz, device) -> Space:
    matrices = [(m.format, m.cols) for m in problem.matrices]
    return cuda_parameters.product_space(matrices, quantizes=False, rows=sum(m.rows for m in problem.matrices))
