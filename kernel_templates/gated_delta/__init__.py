"""A gated delta net between its projections: short convolution, gates, the recurrence, gated norm, with its states."""

from kernel_templates.gated_delta import reference, work
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.operation import Operation

OPERATION = Operation(
    "gated_delta", GatedDelta, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("conv_state", "state"), cpu_tolerance=reference.cpu_tolerance,
)  # fmt: skip
