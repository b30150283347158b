"""The least that decoding attention moves and computes."""

from kernel_templates.attention.problem import Attention
from kernel_templates.operation import Work


def work(problem: Attention) -> Work:
    cached = 4 * problem.kv_heads * problem.head_dim * problem.reach  # float16 keys and values
    vectors = 4 * problem.heads * (problem.query_size + problem.head_dim + problem.sinks)
    return Work(cached + vectors, 4 * problem.heads * problem.head_dim * problem.reach)
