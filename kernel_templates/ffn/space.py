"""How the feed-forward network can be built: gate and up share their tiles, down has its own."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.ffn.problem import Ffn
from kernel_templates.space import Space


def cpu(problem: Ffn, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without

    formats = tuple(m.format for m in problem.matrices)
    chosen = parameters.tile_parameters(formats, features, ("gate_up_", "down_"))
    return Space(chosen, (parameters.streams_divide(*((m.format, m.cols) for m in problem.matrices)),))


def cuda(problem: Ffn, device) -> Space:
    *wide, narrow = ((m.format, m.cols) for m in problem.matrices)
    gate_up = cuda_parameters.parameters("gate_up_", wide, quantizes=True, together=2, rows=problem.ffn)
    down = cuda_parameters.parameters("down_", [narrow], quantizes=True, rows=problem.hidden)
    return Space(gate_up[0] + down[0], gate_up[1] + down[1])
