"""The least the feed-forward network moves and computes."""

from kernel_templates import formats
from kernel_templates.ffn.problem import Ffn
from kernel_templates.operation import Work


def work(problem: Ffn) -> Work:
    wide = formats.get(problem.gate_format).row_bytes(problem.hidden) + formats.get(problem.up_format).row_bytes(
        problem.hidden
    )
    weights = problem.ffn * wide + problem.hidden * formats.get(problem.down_format).row_bytes(problem.ffn)
    return Work(weights + 12 * problem.hidden, 6 * problem.hidden * problem.ffn)
