"""What a candidate is proved on: a problem's random inputs, at every position that its outputs may depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kernel_templates import registry
from kernel_templates.operation import Inputs
from kernel_templates.problem import Problem


@dataclass(frozen=True)
class Proof:
    """inputs: of one seed; expected: the reference's outputs for them; elsewhere: (position, outputs) for the same
    inputs with another position."""

    inputs: Inputs
    expected: Mapping[str, np.ndarray]
    elsewhere: Sequence[tuple[int, Mapping[str, np.ndarray]]] = ()


def of(problem: Problem, seed: int) -> Proof:
    """Draw inputs and compute what they must give, in float64."""
    operation = registry.get(problem.op)
    inputs = operation.inputs(problem, seed)
    elsewhere = []
    for position in problem.proved_positions:
        moved = replace(inputs, buffers={**inputs.buffers, "position": np.array([position], np.int64)})
        elsewhere.append((position, dict(operation.reference(problem, moved))))
    return Proof(inputs, dict(operation.reference(problem, inputs)), tuple(elsewhere))
