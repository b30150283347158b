"""The feed-forward half of a layer: x += W_down (silu(W_gate n) * (W_up n)) with n = rmsnorm(x) * g."""

from kernel_templates.ffn import reference, work
from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Operation

OPERATION = Operation("ffn", Ffn, reference.inputs, reference.outputs, work.work, reference.tolerance)
