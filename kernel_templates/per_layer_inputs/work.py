"""The least that a token's inputs to the layers take to make."""

from kernel_templates.operation import Work, weight_bytes
from kernel_templates.per_layer_inputs.problem import PerLayerInputs


def work(problem: PerLayerInputs) -> Work:
    moved = 4 * problem.hidden + 4 * problem.size + 8 * problem.rows  # inputs before and after
    return Work(weight_bytes(problem) + moved, 2 * problem.rows * problem.hidden)
