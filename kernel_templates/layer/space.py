"""How a layer can be built: its parts' parameters under prefixes, and where a head's norm and RoPE happen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel_templates import registry
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.moe.problem import Moe
from kernel_templates.space import Constraint, Parameter, Space

FINISH = Parameter(
    "finish", ("attention", "kernel"), "attention",
    "where QK-norm, RoPE and the append to the cache happen: in attention's prologue, or in a kernel of their own",
)  # fmt: skip

ROUTE = Parameter(
    "route", ("kernel", "out"), "kernel",
    "where the router's product is made: in a kernel of its own, or added up by the output projection's programs",
    formerly="kernel",
)  # fmt: skip
MOST_COLUMNS = 32


def cuda(problem: LinkedChain, device) -> Space:
    """A space to walk in, part by part: it has too many configurations to list."""
    finish = FINISH
    if getattr(problem, "shared_kv", 0):  # another's cache is appended to by none, which attention's prologue would
        finish = replace(FINISH, values=("kernel",), default="kernel")
    parameters, constraints = [finish] if "attention" in problem.parts() else [], []
    if (experts := _added_up(problem)) > 0:
        parameters.append(ROUTE)
        constraints.append(
            Constraint(
                "the router's columns in registers",
                f"a thread that adds the router's product up holds its rows of {MOST_COLUMNS} weights at most",
                lambda c: (
                    c["route"] == "kernel" or experts * c["out_each"] * c["out_steps"] <= MOST_COLUMNS * c["out_units"]
                ),
            )
        )
    for prefix, part in problem.parts().items():
        space = registry.cuda_space(part, device)
        parameters += [p.in_part(prefix) for p in space.parameters]
        constraints += [_under(prefix, c) for c in space.constraints]
    return Space(tuple(parameters), tuple(constraints))


def _added_up(problem: LinkedChain) -> int:
    """The experts of a router that reads just what the output projection's programs make: no norm comes between, and
    its weights are as exact as its sums; else 0."""
    mixture = problem.parts().get("moe")
    if not isinstance(mixture, Moe) or "attention" not in problem.parts():
        return 0
    apart = mixture.post_norm or mixture.beside or mixture.shared_ffn or mixture.router_format != "F32"
    return 0 if apart else mixture.experts


def part(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A part's own configuration out of the layer's."""
    start = prefix + "_"
    return {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def _under(prefix: str, constraint: Constraint) -> Constraint:
    return Constraint(f"{prefix}: {constraint.name}", constraint.reason, lambda c: constraint.holds(part(c, prefix)))
