"""The least that a product with the matrices of several experts moves and computes: those that any row uses, once."""

import numpy as np

from kernel_templates import formats
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.grouped_matmul.reference import expert_ids
from kernel_templates.operation import Work


def work(problem: GroupedMatmul) -> Work:
    touched = len(np.unique(expert_ids(problem)))
    matrices = touched * problem.rows * formats.get(problem.format).row_bytes(problem.cols)
    vectors = problem.pairs // problem.share * problem.cols + problem.pairs * problem.outputs
    return Work(matrices + 4 * vectors, 2 * problem.rows * problem.cols * problem.pairs)
