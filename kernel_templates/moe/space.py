"""How a mixture of experts can be built: the router, gate and up of the chosen experts, down of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.cuda.traits import of_format
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
STREAMED = "gate_up_stream"
"""Experts are others at the next token, and together larger than any cache; but small downs are faster without it."""
WORDS = 120  # of all tiles of four rows of gate and up, of a codebook's, that a thread takes, untuned
WIDE = 128  # units of a tile that lies across four warps
MANY = 128  # experts from which the router has two rows a program


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
    untuned = {**_gate_up(problem), **_down(problem), **_router(problem)}
    every = [each for each in (*gate_up[0], *down[0], *of_router[0]) if each.name not in FIXED]
    every = [replace(each, default=untuned.get(each.name, each.default)) for each in every]
    return Space((CHOOSE, *every), of_router[1] + gate_up[1] + down[1])


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what is fixed."""
    return {**config, **FIXED}


def _gate_up(problem: Moe) -> dict[str, int]:
    """Where the general rule does not hold for gate and up, untuned: four rows a thread of a codebook's weights too."""
    own, traits = {STREAMED: 1}, of_format(problem.gate_format)
    tiles = 2 * -(-cuda_parameters.units(problem.hidden, problem.gate_format) // 32)
    alike = traits.codebook is not None and problem.up_format == problem.gate_format
    if alike and tiles >= 4 and 4 * tiles * traits.tile_words <= WORDS:
        own |= {"gate_up_warps": 4, "gate_up_units": 32, "gate_up_each": 4, "gate_up_ahead": 4}
    return own


def _down(problem: Moe) -> dict[str, int]:
    """Eight rows a thread in tiles across four warps, where each has units of two or three experts: its first tiles
    then wait for few choices, and all tiles fit. Of many small experts such a down took five times as long."""
    count = cuda_parameters.units(problem.ffn, problem.down_format)
    tiles = -(-problem.used * count // WIDE)
    if problem.shared_ffn or 2 * count < WIDE or tiles > 3 or of_format(problem.down_format).tile_words > 5:
        return {}
    return {"down_warps": 4, "down_units": WIDE, "down_each": 8, "down_ahead": tiles, "down_ready": 0}


def _router(problem: Moe) -> dict[str, int]:
    """Few rows, which no GPU is busy with: one or two a program, all of it on its way before the wait."""
    count = cuda_parameters.units(problem.hidden, problem.router_format)
    units = max(u for u in (8, 16, 32, 64, 128, 256) if u <= max(8, count))
    tiles = max(t for t in (1, 2, 3, 4, 6, 8) if t <= max(1, -(-count // units)))
    each = 2 if problem.experts >= MANY else 1
    found = {"warps": max(1, units // 32), "units": units, "each": each, "steps": 1, "ahead": tiles}
    return {f"router_{name}": value for name, value in found.items()}
