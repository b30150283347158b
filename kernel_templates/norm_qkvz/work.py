"""The least that a gated delta net's projections move and compute."""

from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.operation import Work, weight_bytes


def work(problem: NormQkvz) -> Work:
    rows = sum(m.rows for m in problem.matrices)
    return Work(weight_bytes(problem) + 8 * problem.hidden + 4 * rows, 2 * rows * problem.hidden)
