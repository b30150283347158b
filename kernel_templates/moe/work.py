"""The least that a mixture of experts moves and computes: a token's own experts, not all of them."""

from kernel_templates import formats
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Work


def work(problem: Moe) -> Work:
    read = {"router": problem.experts, "gate": problem.used * problem.ffn, "up": problem.used * problem.ffn}
    read["down"] = problem.used * problem.hidden
    rows = [(read.get(m.name, m.rows), m) for m in problem.matrices]
    norms = 1 + problem.post_norm + 4 * problem.beside
    vectors = (2 + norms) * problem.hidden  # x in and out
    if problem.bias:
        vectors += problem.experts + 2 * problem.used * problem.ffn + problem.used * problem.hidden
    return Work(
        sum(count * formats.get(m.format).row_bytes(m.cols) for count, m in rows) + 4 * vectors,
        sum(2 * count * m.cols for count, m in rows),
    )
