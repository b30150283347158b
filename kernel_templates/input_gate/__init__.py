"""The end of a layer that has an input of its own for each token: x += rmsnorm(W_proj (gelu(W_gate x) * input)) * g."""

from kernel_templates.input_gate import reference, work
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.operation import Operation

OPERATION = Operation("input_gate", InputGate, reference.inputs, reference.outputs, work.work, reference.tolerance)
