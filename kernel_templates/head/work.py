"""The least the head moves and computes."""

from kernel_templates.head.problem import Head
from kernel_templates.operation import Work, weight_bytes


def work(problem: Head) -> Work:
    return Work(weight_bytes(problem) + 8 * problem.hidden + 4 * problem.vocab, 2 * problem.vocab * problem.hidden)
