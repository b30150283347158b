"""Y = X W^T: one quantized matrix times the activations of many tokens."""

from kernel_templates.matmul import reference, work
from kernel_templates.matmul.problem import Matmul
from kernel_templates.operation import Operation

OPERATION = Operation(
    "matmul", Matmul, reference.inputs, reference.outputs, work.work, reference.tolerance,
    cpu_tolerance=reference.cpu_tolerance,
)  # fmt: skip
