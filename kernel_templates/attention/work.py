"""The least that decoding attention moves and computes."""

from kernel_templates.attention.problem import Attention
from kernel_templates.operation import Work


def work(problem: Attention) -> Work:
    cached = 4 * problem.kv_heads * problem.head_dim * problem.reach  # float16 keys and values
    sinks = 4 * problem.heads * problem.sinks
    return Work(
        cached + sinks + 8 * problem.heads * problem.head_dim, 4 * problem.heads * problem.head_dim * problem.reach
    )
