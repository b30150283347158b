"""How the feed-forward network can be built: gate and up share their tiles, down has its own."""

from kernel_templates.cpu import knobs
from kernel_templates.ffn.problem import Ffn
from kernel_templates.space import Space


def cpu(problem: Ffn, features: frozenset[str]) -> Space:
    formats = (problem.gate_format, problem.up_format, problem.down_format)
    parameters = knobs.tile_parameters(formats, features, ("gate_up_", "down_"))
    matrices = [(problem.gate_format, problem.hidden), (problem.up_format, problem.hidden)]
    return Space(parameters, (knobs.streams_divide(*matrices, (problem.down_format, problem.ffn)),))
