"""The least a layer's first kernel moves and computes."""

from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.operation import Work, weight_bytes


def work(problem: NormQkvRope) -> Work:
    rows = sum(m.rows for m in problem.matrices)
    moved = 8 * problem.hidden + 4 * problem.q_rows + 4 * problem.kv_rows + 4 * rows * problem.qkv_bias
    return Work(weight_bytes(problem) + moved, 2 * rows * problem.hidden)
