"""The shapes of the last step of a token."""

from dataclasses import dataclass

from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class Head(Problem, op="head", template_version=1, matrices={"w": ("vocab", "hidden", "format")}):
    """logits [vocab] = W [vocab, hidden] (x / rms(x) * norm); W in `format`. If `softcap` is not 0, each of them is
    softcap * tanh(logit / softcap) instead."""

    vocab: int
    hidden: int
    format: str
    activation: str = "int16"
    softcap: float = trait(0.0)
