"""The shapes of the last step of a token."""

from dataclasses import dataclass

from kernel_templates.problem import Matrix, Problem


@dataclass(frozen=True)
class Head(Problem, op="head"):
    """logits [vocab] = W [vocab, hidden] (x / rms(x) * norm); W in `format`."""

    vocab: int
    hidden: int
    format: str
    activation: str = "int16"

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (Matrix("w", self.vocab, self.hidden, self.format),)
