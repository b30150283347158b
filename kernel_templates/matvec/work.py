"""The least a matrix-vector product moves and computes."""

from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Work, weight_bytes


def work(problem: Matvec) -> Work:
    return Work(weight_bytes(problem) + 4 * problem.cols + 8 * problem.rows, 2 * problem.rows * problem.cols)
