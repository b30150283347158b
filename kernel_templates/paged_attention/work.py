"""The least that attention over many rows moves and computes."""

from kernel_templates.attention import cache
from kernel_templates.operation import Work
from kernel_templates.paged_attention.problem import PagedAttention


def work(problem: PagedAttention) -> Work:
    """Keys and values that any row of a text sees, once; queries and outputs, float16. Two products a score."""
    cached = pairs = 0
    for last in problem.last_positions:
        positions = range(last + 1 - problem.tokens, last + 1)
        seen = [min(p + 1, problem.window) if problem.window else p + 1 for p in positions]
        cached += min(last + 1, seen[0] + problem.tokens - 1)
        pairs += sum(seen)
    size = problem.heads * problem.head_dim
    kept = 2 * problem.kv_heads * cache.head_bytes(problem.head_dim, problem.cache) * cached
    return Work(kept + 4 * problem.rows * size, 4 * size * pairs)
