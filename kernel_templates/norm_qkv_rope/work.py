"""The least a layer's first kernel moves and computes."""

from kernel_templates import formats
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.operation import Work


def work(problem: NormQkvRope) -> Work:
    weights = sum(rows * formats.get(fmt).row_bytes(problem.hidden) for _, rows, fmt in problem.parts)
    rows = sum(rows for _, rows, _ in problem.parts)
    cached = 4 * problem.kv_heads * problem.head_dim
    return Work(weights + 8 * problem.hidden + 4 * problem.heads * problem.head_dim + cached, 2 * rows * problem.hidden)
