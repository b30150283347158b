"""One query position against the KV cache, grouped heads: softmax(q k / sqrt(d)) v, windows and soft caps included."""

from kernel_templates.attention import reference, work
from kernel_templates.attention.problem import Attention
from kernel_templates.operation import Operation

OPERATION = Operation(
    "attention", Attention, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("keys", "values"),
)  # fmt: skip
