"""A whole layer with a gated delta net as one problem, as `layer` is of one with attention."""

from kernel_templates.delta_layer import reference
from kernel_templates.delta_layer.problem import DeltaLayer
from kernel_templates.layer import reference as layer
from kernel_templates.layer import work
from kernel_templates.operation import Operation

OPERATION = Operation(
    "delta_layer", DeltaLayer, reference.inputs, layer.outputs, work.work, layer.tolerance,
    layer_buffers=("conv_state", "state"),
)  # fmt: skip
