"""The least that a layer moves and computes: the sum of its parts."""

from kernel_templates.layer.problem import LinkedChain
from kernel_templates.operation import Work


def work(problem: LinkedChain) -> Work:
    parts = problem.parts()
    each = [link.operation.work(parts[link.prefix]) for link in problem.links]
    return Work(sum(w.bytes for w in each), sum(w.ops for w in each))
