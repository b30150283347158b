"""The least a product with many tokens moves and computes."""

from kernel_templates.matmul.problem import Matmul
from kernel_templates.operation import Work, weight_bytes


def work(problem: Matmul) -> Work:
    bytes_moved = weight_bytes(problem) + 4 * problem.tokens * (problem.cols + problem.outputs)
    return Work(bytes_moved, 2 * problem.rows * problem.cols * problem.tokens)
