"""How a token's inputs to the layers can be made: by one product of a matrix and a vector."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.matvec import space
from kernel_templates.per_layer_inputs.problem import PerLayerInputs
from kernel_templates.space import Space

cpu = space.cpu


def cuda(problem: PerLayerInputs, device) -> Space:
    return cuda_parameters.product_space([(problem.format, problem.hidden)], quantizes=True, rows=problem.rows)
