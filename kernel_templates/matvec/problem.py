"""The shapes of a matrix-vector product."""

from dataclasses import dataclass

from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class Matvec(Problem, op="matvec", template_version=1, matrices={"w": ("rows", "cols", "format")}):
    """out [rows] += y, y = W [rows, cols] x [cols]; W in `format`, x quantized to `activation` where the format is
    integer. If `bias` is 1, y = W x + bias. If `post_norm` is 1, out += rmsnorm(y) * post_norm instead."""

    rows: int
    cols: int
    format: str
    activation: str = "int16"
    post_norm: int = trait(0, (0, 1))
    bias: int = trait(0, (0, 1))
