"""The shapes of a matrix-vector product."""

from dataclasses import dataclass

from kernel_templates.problem import Matrix, Problem


@dataclass(frozen=True)
class Matvec(Problem, op="matvec"):
    """out [rows] += W [rows, cols] x [cols]; W in `format`, x quantized to `activation` where the format is integer."""

    rows: int
    cols: int
    format: str
    activation: str = "int16"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (Matrix("w", self.rows, self.cols, self.format),)
