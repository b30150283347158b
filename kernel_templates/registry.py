"""Every operation by name."""

from kernel_templates import attention, ffn, head, matvec, norm_qkv_rope
from kernel_templates.operation import Operation
from kernel_templates.problem import Problem

OPERATIONS: dict[str, Operation] = {
    module.OPERATION.name: module.OPERATION for module in (norm_qkv_rope, attention, matvec, ffn, head)
}


def get(name: str) -> Operation:
    """The operation called `name`; ValueError lists those there are."""
    if name not in OPERATIONS:
        raise ValueError(f"no operation is called {name!r}; there are {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


def parse_problem(key: str) -> Problem:
    """The Problem that a key names; ValueError if it names none."""
    op, _, fields = key.partition(":")
    return get(op).problem.parse(fields)
