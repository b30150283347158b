"""How a layer's first kernel can be built."""

from kernel_templates.cpu import parameters
from kernel_templates.cuda import parameters as cuda_knobs
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.space import Constraint, Space


def cpu(problem: NormQkvRope, features: frozenset[str]) -> Space:
    formats = (problem.q_format, problem.k_format, problem.v_format)
    groups = problem.parts
    ends = [sum(rows for _, rows, _ in groups[: i + 1]) for i in range(2) if groups[i][2] != groups[i + 1][2]]
    return Space(
        parameters.tile_parameters(formats, features),
        (
            parameters.streams_divide(*((name, problem.hidden) for name in formats)),
            Constraint(
                "whole tiles before a change of format",
                "q, k and v lie one behind the other: a tile that ends in the next one's rows would overwrite them",
                lambda c: all(rows % c["lanes"] == 0 for rows in ends),
            ),
        ),
    )


def cuda(problem: NormQkvRope, device) -> Space:
    matrices = [(name, problem.hidden) for _, _, name in problem.parts]
    return cuda_knobs.product_space(matrices, quantizes=False, rows=sum(rows for _, rows, _ in problem.parts))
