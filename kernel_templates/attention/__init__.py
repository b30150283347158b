"""One query position against the KV cache, grouped heads: softmax(q k / sqrt(d)) v, with windows, soft caps, sinks."""

from kernel_templates.attention import reference, work
from kernel_templates.attention.problem import Attention
from kernel_templates.operation import Operation

OPERATION = Operation(
    "attention", Attention, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("keys", "values", "key_scales", "value_scales"),
)  # fmt: skip
