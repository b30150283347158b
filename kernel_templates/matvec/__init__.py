"""y += W x, maybe with a bias: one quantized matrix times one vector, added to the residual stream (the attention's
output projection)."""

from kernel_templates.matvec import reference, work
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Operation

OPERATION = Operation("matvec", Matvec, reference.inputs, reference.outputs, work.work, reference.tolerance)
