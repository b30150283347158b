"""How a mixture of experts can be built: the router, gate and up of the chosen experts, down of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.moe.problem import Moe
from kernel_templates.space import Constraint, Parameter, Space

FIXED = {"gate_up_early": 1, "gate_up_ready": 0}
"""What nothing is to choose about: gate's and up's weights are not known before the wait, and what follows them starts
after it."""
CHOOSE = Parameter(
    "choose", ("readers", "kernel"), "readers",
    "where experts are chosen: in the kernels that read them, again in every program, or in a kernel of its own",
    formerly="kernel",
)  # fmt: skip
STREAMED = ("gate_up_stream", "down_stream")
"""Experts are others at the next token, and together larger than any cache."""


def cpu(problem: Moe, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without

    p, matrices = problem, problem.matrices
    formats = tuple(m.format for m in matrices)
    chosen = parameters.tile_parameters(formats, features, ("router_", "gate_up_", "down_"))
    return Space(
        chosen,
        (
            parameters.streams_divide(*((m.format, m.cols) for m in matrices)),
            Constraint(
                "an expert in whole tiles", f"its {p.ffn} rows of gate and {p.hidden} of down begin with a tile",
                lambda c: (
                    all(rows % c["gate_up_lanes"] == 0 for rows in (p.ffn, p.shared_ffn))
                    and p.hidden % c["down_lanes"] == 0
                ),
            ),
        ),
    )  # fmt: skip


def cuda(problem: Moe, device) -> Space:
    """Gate and up have the rows of all chosen experts, and down's rows are as long as all of theirs."""
    p, shared = problem, problem.shared_ffn > 0
    wide = [(p.gate_format, p.hidden), (p.up_format, p.hidden)]
    wide += [(p.shared_gate_format, p.hidden), (p.shared_up_format, p.hidden)] * shared
    narrow = [(p.down_format, p.used * p.ffn)] + [(p.shared_down_format, p.shared_ffn)] * shared
    of_router = cuda_parameters.parameters("router_", [(p.router_format, p.hidden)], quantizes=False, rows=p.experts)
    gate_up = cuda_parameters.parameters(
        "gate_up_", wide, quantizes=True, together=2, rows=p.used * p.ffn, hidden=False
    )
    down = cuda_parameters.parameters("down_", narrow, quantizes=True, rows=p.hidden)
    every = [_as_experts(each) for each in gate_up[0] + down[0] if each.name not in FIXED]
    every += [_as_router(each, p) for each in of_router[0]]
    return Space((CHOOSE, *every), of_router[1] + gate_up[1] + down[1])


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what is fixed."""
    return {**config, **FIXED}


def _as_experts(parameter: Parameter) -> Parameter:
    return replace(parameter, default=1) if parameter.name in STREAMED else parameter


def _as_router(parameter: Parameter, problem: Moe) -> Parameter:
    """Few rows, which no GPU is busy with: a row a program, all of it on its way before the wait."""
    count = cuda_parameters.units(problem.hidden, problem.router_format)
    units = max(u for u in (8, 16, 32, 64, 128, 256) if u <= max(8, count))
    tiles = max(t for t in (1, 2, 3, 4, 6, 8) if t <= max(1, -(-count // units)))
    defaults = {"warps": max(1, units // 32), "units": units, "each": 1, "steps": 1, "ahead": tiles}
    return replace(parameter, default=defaults.get(parameter.base_name, parameter.default))
