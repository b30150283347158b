"""The least the head moves and computes."""

from kernel_templates import formats
from kernel_templates.head.problem import Head
from kernel_templates.operation import Work


def work(problem: Head) -> Work:
    weights = problem.vocab * formats.get(problem.format).row_bytes(problem.hidden)
    return Work(weights + 8 * problem.hidden + 4 * problem.vocab, 2 * problem.vocab * problem.hidden)
