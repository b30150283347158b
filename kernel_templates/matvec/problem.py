"""The shapes of a matrix-vector product."""

from dataclasses import dataclass

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class Matvec(Problem, op="matvec", template_version=1, matrices={"w": ("rows", "cols", "format")}):
    """out [rows] += W [rows, cols] x [cols]; W in `format`, x quantized to `activation` where the format is integer."""

    rows: int
    cols: int
    format: str
    activation: str = "int16"
