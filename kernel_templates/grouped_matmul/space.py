"""How a product with the matrices of several experts can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates import formats
from kernel_templates.device import Device
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul import space as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import LEAST_WIDE, MOST_WORDS
from kernel_templates.space import Constraint, Parameter, Space

BLOCKS = (8, 16, 32, 64, 128)
MOST_THIN = 32
"""Pairs whose sums fit in registers beside weights."""
WIDE_FROM = 32
"""Pairs of an expert, on average, from which on their product is bound by arithmetic."""


def cuda(problem: GroupedMatmul, device: Device) -> Space:
    """`thin` and `wide` as of `matmul`, each over blocks of an expert's pairs; `float`, of matrices of floats, is one
    plain loop."""
    quantized, hopper = formats.get(problem.format).quantized, device.capability == "9.0"
    algorithms = (("thin", "wide") if hopper else ("thin",)) if quantized else ("float",)
    average = max(1, problem.pairs // problem.experts)  # pairs of an expert
    wide = "wide" in algorithms and average > WIDE_FROM
    algorithm = "wide" if wide else algorithms[0]
    limit = 64 if wide or not quantized else MOST_THIN
    block = min(max(1 << (average - 1).bit_length(), LEAST_WIDE if algorithm != "thin" else BLOCKS[0]), limit)
    least = 2 if problem.gate else 1
    return Space(
        (
            Parameter("algorithm", algorithms, algorithm, "how it multiplies"),
            Parameter("block", BLOCKS, block, "pairs of one expert that a program has"),
            Parameter("tiles", (1, 2, 4), least, "tiles of rows of a program, each below the other"),
            Parameter("warps", (1, 2, 4, 8), 4, "warps: side by side along columns, or down rows"),
            Parameter("ahead", (1, 2, 3, 4), 1, "steps whose weights are on their way at once"),
            Parameter("stages", (2, 3, 4), 2, "steps whose activations are on their way at once"),
        ),
        (
            Constraint(
                "whole tiles of pairs", f"thin programs have up to {MOST_THIN} pairs, the others {LEAST_WIDE} or more",
                lambda c: c["block"] <= MOST_THIN if c["algorithm"] == "thin" else c["block"] >= LEAST_WIDE,
            ),
            Constraint(
                "no stages", "only a wide program has activations in shared memory",
                lambda c: c["algorithm"] == "wide" or c["stages"] == 2,
            ),
            Constraint(
                "a whole warp group", "wgmma takes 4 warps", lambda c: c["algorithm"] != "wide" or c["warps"] >= 4
            ),
            Constraint(
                "a plain loop", "of floats one step is on its way, and a tile has as many rows as warps take",
                lambda c: c["algorithm"] != "float" or (c["ahead"], c["tiles"]) == (1, least),
            ),
            Constraint(
                "gate beside up", "with a gate every other tile belongs to the matrix below",
                lambda c: not problem.gate or c["tiles"] % 2 == 0,
            ),
            Constraint(
                "sums in registers", "sums and weights on their way stay in registers, of which there are 65,536",
                lambda c: c["algorithm"] == "float" or _words(c) <= min(MOST_WORDS, 2048 // c["warps"]),
            ),
        ),
    )  # fmt: skip


def cpu(problem: GroupedMatmul, features: frozenset[str]) -> Space:
    """As of `matmul` with as many tokens as an expert has on average; of any, fewer experts than there are."""
    if problem.gate or problem.bias:
        raise NotImplementedError("grouped_matmul on the cpu has gate and up apart: leave gate and bias out")
    experts = min(problem.experts, problem.pairs)
    return matmul.cpu(Matmul(problem.rows, problem.cols, problem.format, -(-problem.pairs // experts)), features)


def _words(config: Mapping[str, Any]) -> int:
    """Registers a thread, about, as of `matmul`'s space."""
    tiles, ahead, block = config["tiles"], config["ahead"], config["block"]
    if config["algorithm"] == "wide":
        return 40 + tiles * (block // 2 + 10 * ahead)
    eights = block // 8
    return 4 * tiles * eights + 16 * eights * (2 if eights == 1 else 1) + 10 * tiles * (ahead + 1) + 32
