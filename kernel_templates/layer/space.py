"""How a layer can be built: its parts' parameters under prefixes, and where a head's norm and RoPE happen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel_templates import registry
from kernel_templates.attention.cache import F16
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.space import Constraint, Parameter, Space

FINISH = Parameter(
    "finish", ("attention", "kernel"), "attention",
    "where QK-norm, RoPE and the append to the cache happen: in attention's prologue, or in a kernel of their own",
)  # fmt: skip


def cuda(problem: LinkedChain, device) -> Space:
    """A space to walk in, part by part: it has too many configurations to list."""
    finish = FINISH
    # Another's cache is appended to by none, which attention's prologue would; and it appends float16.
    if getattr(problem, "shared_kv", 0) or getattr(problem, "cache", F16) != F16:
        finish = replace(FINISH, values=("kernel",), default="kernel")
    parameters, constraints = [finish] if "attention" in problem.parts() else [], []
    for prefix, part in problem.parts().items():
        space = registry.cuda_space(part, device)
        parameters += [p.in_part(prefix) for p in space.parameters]
        constraints += [_under(prefix, c) for c in space.constraints]
    return Space(tuple(parameters), tuple(constraints))


def part(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A part's own configuration out of the layer's."""
    start = prefix + "_"
    return {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def _under(prefix: str, constraint: Constraint) -> Constraint:
    return Constraint(f"{prefix}: {constraint.name}", constraint.reason, lambda c: constraint.holds(part(c, prefix)))
