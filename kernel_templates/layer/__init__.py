"""A whole layer as one problem: the chain of kernels that is tuned in context, by the time of the captured layer."""

from kernel_templates.layer import reference, work
from kernel_templates.layer.problem import Layer
from kernel_templates.operation import Operation

OPERATION = Operation(
    "layer", Layer, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("keys", "values", "key_scales", "value_scales"),
)  # fmt: skip
