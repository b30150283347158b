"""The least that the gate of a layer's input moves and computes."""

from kernel_templates.input_gate.problem import InputGate
from kernel_templates.operation import Work, weight_bytes


def work(problem: InputGate) -> Work:
    vectors = 3  # x in and out, the norm
    moved = 4 * vectors * problem.hidden + 4 * problem.size
    return Work(weight_bytes(problem) + moved, 4 * problem.hidden * problem.size)
