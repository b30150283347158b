"""What products of a pass over many rows are made of: matrices that are multiplied as one, and what they read."""

from dataclasses import dataclass

from torch import Tensor

from kernel_templates.cuda import fragments
from kernel_templates.cuda.weights import Planes
from kernel_templates.matmul import cuda as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config


@dataclass(frozen=True)
class PassProduct:
    """parts: matrices one below the other, which lie so in memory unless the library multiplies them."""

    name: str
    parts: tuple[Planes, ...]
    problem: Matmul
    config: Config

    @property
    def order(self) -> int:
        """Of its input's columns."""
        return matmul.order(self.config)


@dataclass(frozen=True)
class Half:
    """Activations that products read: values float16 [rows, width of the order], an order of columns as of
    `fragments`."""

    values: Tensor
    cols: int
    order: int

    def write(self, values: Tensor) -> None:
        """Of the first rows, [rows, cols] in their natural order."""
        self.values[: len(values), fragments.places(self.cols, self.order, self.values.device)] = values.to(self.values)

    def read(self, count: int) -> Tensor:
        """float32 [count, cols] of the first rows, in their natural order."""
        return self.values[:count, fragments.places(self.cols, self.order, self.values.device)].float()


def cut(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """[rows, columns] at the beginning of a flat buffer."""
    return buffer[: rows * columns].view(rows, columns)
