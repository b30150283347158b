"""The first kernel of a layer: RMSNorm, Q K V projections, QK-norm, RoPE, and the new position's keys and values."""

from kernel_templates.norm_qkv_rope import reference, work
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.operation import Operation

OPERATION = Operation(
    "norm_qkv_rope", NormQkvRope, reference.inputs, reference.outputs, work.work, reference.tolerance,
    layer_buffers=("keys", "values"),
)  # fmt: skip
