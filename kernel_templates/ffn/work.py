"""The least the feed-forward network moves and computes."""

from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Work, weight_bytes


def work(problem: Ffn) -> Work:
    return Work(weight_bytes(problem) + 12 * problem.hidden, 6 * problem.hidden * problem.ffn)
