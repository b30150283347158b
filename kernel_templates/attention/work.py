"""The least that decoding attention moves and computes."""

from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.operation import Work


def work(problem: Attention) -> Work:
    cached = 2 * problem.kv_heads * cache.head_bytes(problem.head_dim, problem.cache) * problem.reach
    vectors = 4 * problem.heads * (problem.query_size + problem.head_dim + problem.sinks)
    return Work(cached + vectors, 4 * problem.heads * problem.head_dim * problem.reach)
