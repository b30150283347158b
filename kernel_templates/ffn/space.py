"""How the feed-forward network can be built: gate and up share their tiles, down has its own."""

from kernel_templates.cpu import parameters
from kernel_templates.cuda import parameters as cuda_knobs
from kernel_templates.ffn.problem import Ffn
from kernel_templates.space import Space


def cpu(problem: Ffn, features: frozenset[str]) -> Space:
    formats = (problem.gate_format, problem.up_format, problem.down_format)
    chosen = parameters.tile_parameters(formats, features, ("gate_up_", "down_"))
    matrices = [(problem.gate_format, problem.hidden), (problem.up_format, problem.hidden)]
    return Space(chosen, (parameters.streams_divide(*matrices, (problem.down_format, problem.ffn)),))


def cuda(problem: Ffn, device) -> Space:
    wide = [(problem.gate_format, problem.hidden), (problem.up_format, problem.hidden)]
    gate_up = cuda_knobs.parameters("gate_up_", wide, quantizes=True, together=2, rows=problem.ffn)
    narrow = [(problem.down_format, problem.ffn)]
    down = cuda_knobs.parameters("down_", narrow, quantizes=True, rows=problem.hidden)
    return Space(gate_up[0] + down[0], gate_up[1] + down[1])
