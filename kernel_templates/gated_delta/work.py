"""The least that a gated delta net moves and computes."""

from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.operation import Work


def work(problem: GatedDelta) -> Work:
    """Of each text the state once in and once out, and of the convolution's rows those before in, and as many out as
    the next ones read; taps and vectors once. Each element of a state is multiplied and added in three products."""
    per_text = 2 * problem.heads * problem.head_dim**2
    per_text += (problem.kernel - 1 + min(problem.tokens, problem.kernel)) * problem.channels
    once = problem.kernel * problem.channels + 2 * problem.heads + problem.head_dim
    per_row = problem.projected_size + problem.value_size
    ops = 7 * problem.heads * problem.head_dim**2 + 2 * problem.kernel * problem.channels
    return Work(4 * (problem.sequences * per_text + once + problem.rows * per_row), problem.rows * ops)
