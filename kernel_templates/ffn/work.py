"""The least the feed-forward network moves and computes."""

from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Work, weight_bytes


def work(problem: Ffn) -> Work:
    vectors = 4 if problem.post_norm else 3  # x in and out, norms
    return Work(weight_bytes(problem) + 4 * vectors * problem.hidden, 6 * problem.hidden * problem.ffn)
