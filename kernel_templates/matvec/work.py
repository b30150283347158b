"""The least a matrix-vector product moves and computes."""

from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Work, weight_bytes


def work(problem: Matvec) -> Work:
    vectors = 2 + problem.post_norm + problem.bias  # out before and after, the norm, the bias
    bytes_moved = weight_bytes(problem) + 4 * problem.cols + 4 * vectors * problem.rows
    return Work(bytes_moved, 2 * problem.rows * problem.cols)
