"""The shapes of a token's inputs to each layer."""

from dataclasses import dataclass

from kernel_templates.problem import Problem


@dataclass(frozen=True)
class PerLayerInputs(
    Problem, op="per_layer_inputs", template_version=1, matrices={"w": ("rows", "hidden", "format")}
):  # fmt: skip
    """inputs [layers, size] = (rmsnorm(W x / sqrt(hidden)) * norm + inputs) / sqrt(2): W [layers * size, hidden], x
    [hidden] the token's embedding as the first layer gets it, norm [size] over each layer's part alone, inputs before:
    the token's row of the table of per-layer embeddings, scaled."""

    hidden: int
    layers: int
    size: int
    format: str
    activation: str = "int16"

    @property
    def rows(self) -> int:
        return self.layers * self.size
