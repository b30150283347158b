"""Many rows, each times the matrix of its own expert: y_p = W[e_p] x_p."""

from kernel_templates.grouped_matmul import reference, work
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul.reference import cpu_tolerance
from kernel_templates.operation import Operation

OPERATION = Operation(
    "grouped_matmul", GroupedMatmul, reference.inputs, reference.outputs, work.work, reference.tolerance,
    cpu_tolerance=cpu_tolerance,
)  # fmt: skip
