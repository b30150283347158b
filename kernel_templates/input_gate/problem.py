"""The shapes of the gate through which a layer's own input of a token enters the residual stream."""

from dataclasses import dataclass

from kernel_templates.problem import Problem, trait


@dataclass(frozen=True)
class InputGate(
    Problem,
    op="input_gate",
    template_version=1,
    matrices={"gate": ("size", "hidden", "gate_format"), "proj": ("hidden", "size", "proj_format")},
):
    """x [hidden] += rmsnorm(y) * post_norm, y = W_proj [hidden, size] (gelu(W_gate x) * input), W_gate [size, hidden],
    input [size] the token's for this layer (`PerLayerInputs`), gelu in its tanh form; then, if `out_scale` is 1, x is
    multiplied with out_scale [1]. x is not normed before the gate."""

    hidden: int
    size: int
    gate_format: str
    proj_format: str
    activation: str = "int16"
    out_scale: int = trait(0, (0, 1))

    @property
    def post_norm(self) -> int:
        """There always is one."""
        return 1
