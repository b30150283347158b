"""Many query rows of one or several texts against a KV cache in pages: prompts, texts side by side, speculation."""

from kernel_templates.operation import Operation
from kernel_templates.paged_attention import reference, work
from kernel_templates.paged_attention.problem import PagedAttention

OPERATION = Operation(
    "paged_attention", PagedAttention, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("paged",),
)  # fmt: skip
