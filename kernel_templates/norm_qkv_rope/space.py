"""How a layer's first kernel can be built."""

from itertools import accumulate, pairwise

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.space import Constraint, Space


def cpu(problem: NormQkvRope, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without

    ends = list(accumulate(m.rows for m in problem.matrices))
    changes = [
        end for end, (m, after) in zip(ends, pairwise(problem.matrices), strict=False) if m.format != after.format
    ]
    return Space(
        parameters.tile_parameters(tuple(m.format for m in problem.matrices), features),
        (
            parameters.streams_divide(*((m.format, m.cols) for m in problem.matrices)),
            Constraint(
                "whole tiles before a change of format",
                "q, k and v lie one behind the other: a tile that ends in the next one's rows would overwrite them",
                lambda c: all(rows % c["lanes"] == 0 for rows in changes),
            ),
        ),
    )


def cuda(problem: NormQkvRope, device) -> Space:
    matrices = [(m.format, m.cols) for m in problem.matrices]
    return cuda_parameters.product_space(matrices, quantizes=False, rows=sum(m.rows for m in problem.matrices))
