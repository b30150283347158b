"""How the gate of a layer's input can be built: each of its products has its own tiles."""

from kernel_templates.cuda import parameters as cuda_parameters
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.space import Space


def cpu(problem: InputGate, features: frozenset[str]) -> Space:
    from kernel_templates.cpu import parameters  # with Numba, which a GPU's engine does without

    formats = tuple(m.format for m in problem.matrices)
    chosen = parameters.tile_parameters(formats, features, ("gate_", "proj_"))
    return Space(chosen, (parameters.streams_divide(*((m.format, m.cols) for m in problem.matrices)),))


def cuda(problem: InputGate, device) -> Space:
    made = (
        cuda_parameters.parameters(f"{m.name}_", [(m.format, m.cols)], quantizes=True, rows=m.rows)
        for m in problem.matrices
    )
    parameters, constraints = zip(*made, strict=True)
    return Space(sum(parameters, ()), sum(constraints, ()))
