"""A mixture of experts as a layer's feed-forward half: a router chooses few of many gated networks for a token."""

from kernel_templates.moe import reference, work
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Operation

OPERATION = Operation(
    "moe", Moe, reference.inputs, reference.outputs, work.work, reference.tolerance,
    cpu_tolerance=reference.cpu_tolerance,
)  # fmt: skip
