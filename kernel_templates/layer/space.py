"""How a layer can be built: its parts' parameters under prefixes, and where a head's norm and RoPE happen."""

from collections.abc import Mapping
from typing import Any

from kernel_templates import registry
from kernel_templates.layer.problem import Layer
from kernel_templates.space import Constraint, Parameter, Space


def cuda(problem: Layer, device) -> Space:
    """A space to walk in, part by part: it has too many configurations to list."""
    # A layer that reads another's cache appends nothing, which attention's prologue would.
    places = ("kernel",) if problem.shared_kv else ("attention", "kernel")
    finish = Parameter(
        "finish", places, places[0],
        "where QK-norm, RoPE and the append to the cache happen: in attention's prologue, or in a kernel of their own",
    )  # fmt: skip
    parameters, constraints = [finish], []
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
