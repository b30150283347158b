"""What each layer gets of a token beside the residual stream: (rmsnorm(W x / sqrt(hidden)) * g + inputs) / sqrt(2)."""

from kernel_templates.operation import Operation
from kernel_templates.per_layer_inputs import reference, work
from kernel_templates.per_layer_inputs.problem import PerLayerInputs

OPERATION = Operation(
    "per_layer_inputs", PerLayerInputs, reference.inputs, reference.outputs, work.work, reference.tolerance
)
