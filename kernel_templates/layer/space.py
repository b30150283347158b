"""How a layer can be built: its parts' parameters under prefixes, and where a head's norm and RoPE happen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel_templates import registry
from kernel_templates.attention.cache import F16
from kernel_templates.cuda.parameters import HIDDEN_WEIGHTS, units
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Constraint, Parameter, Space

FINISH = Parameter(
    "finish", ("attention", "kernel"), "attention",
    "where QK-norm, RoPE and the append to the cache happen: in attention's prologue, or in a kernel of their own",
)  # fmt: skip

WIDE = 128  # units of a tile that lies across four warps
MANY = 2048  # rows, eight a program, of which every multiprocessor then has one or two


def cuda(problem: LinkedChain, device) -> Space:
    """A space to walk in, part by part: it has too many configurations to list."""
    finish = FINISH
    # Another's cache is appended to by none, which attention's prologue would; and it appends float16.
    if getattr(problem, "shared_kv", 0) or getattr(problem, "cache", F16) != F16:
        finish = replace(FINISH, values=("kernel",), default="kernel")
    parameters, constraints = [finish] if "attention" in problem.parts() else [], []
    for prefix, part in problem.parts().items():
        space = registry.cuda_space(part, device)
        untuned = _before_experts(part) if isinstance(part, Matvec) and "moe" in problem.parts() else {}
        own = [replace(p, default=untuned.get(p.name, p.default)) for p in space.parameters]
        parameters += [p.in_part(prefix) for p in own]
        constraints += [_under(prefix, c) for c in space.constraints]
    return Space(tuple(parameters), tuple(constraints))


def _before_experts(out: Matvec) -> dict[str, int]:
    """An output projection of long rows whose weights wait for attention, untuned: eight rows a thread, in tiles across
    four warps. As measured in layers of two mixtures (docs/log.md); {} elsewhere."""
    count = units(out.cols, out.format)
    tiles = count // WIDE
    if count % WIDE or tiles > 2 or out.rows < MANY or out.rows * out.cols >= HIDDEN_WEIGHTS:
        return {}
    return {"warps": 4, "units": WIDE, "each": 8, "ahead": tiles, "ready": int(tiles > 1)}


def part(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A part's own configuration out of the layer's."""
    start = prefix + "_"
    return {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def _under(prefix: str, constraint: Constraint) -> Constraint:
    return Constraint(f"{prefix}: {constraint.name}", constraint.reason, lambda c: constraint.holds(part(c, prefix)))
