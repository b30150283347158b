"""The shapes of a matrix-vector product."""

from dataclasses import dataclass
from typing import ClassVar

from kernel_templates.problem import Matrix, Problem


@dataclass(frozen=True)
class Matvec(Problem):
    """out [rows] += W [rows, cols] x [cols]; W in `format`, x quantized to `activation` where the format is integer."""

    op: ClassVar[str] = "matvec"
    template_version: ClassVar[int] = 1

    rows: int
    cols: int
    format: str
    activation: str = "int16"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (Matrix("w", self.rows, self.cols, self.format),)
