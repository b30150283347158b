"""The least a matrix-vector product moves and computes."""

from kernel_templates import formats
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Work


def work(problem: Matvec) -> Work:
    weights = problem.rows * formats.get(problem.format).row_bytes(problem.cols)
    return Work(weights + 4 * problem.cols + 8 * problem.rows, 2 * problem.rows * problem.cols)
