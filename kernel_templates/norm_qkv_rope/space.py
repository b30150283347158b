"""How a layer's first kernel can be built."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.space import Space


def cpu(problem: NormQkvRope, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without
    from kernel_templates.cpu.stacked import whole_tiles

    return Space(
        parameters.tile_parameters(tuple(m.format for m in problem.matrices), features),
        (
            parameters.streams_divide(*((m.format, m.cols) for m in problem.matrices)),
            whole_tiles(problem.matrices),
        ),
    )


def cuda(problem: NormQkvRope, device) -> Space:
    matrices = [(m.format, m.cols) for m in problem.matrices]
    return cuda_parameters.product_space(matrices, quantizes=False, rows=sum(m.rows for m in problem.matrices))
