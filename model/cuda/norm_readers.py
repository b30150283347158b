"""Who reads which norm of a pass: the products behind it, and where they find it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from kernel_templates.cuda.weights import joined
from model.cuda.load import CudaLayer
from model.cuda.pass_operands import PassProduct
from model.cuda.pass_products import PassProducts
from model.cuda.row_norms import Reader

if TYPE_CHECKING:
    from model.cuda.forward import Forward


class Readers:
    """Of a pass through a model; head: whether it ends with logits."""

    def __init__(self, forward: "Forward", products: PassProducts, head: bool) -> None:
        self._model, self._normed = forward.model, forward.buffers.normed
        self._products, self._with_head = products, head

    def mixer(self, layer: CudaLayer) -> Reader:
        name = layer.plan.steps[0].name
        products = self._products.of(name, [(planes,) for planes in layer.packed[name]])
        return self.of("attn_norm", layer.buffers["attn_norm"], products)

    def feed_forward(self, layer: CudaLayer) -> Reader | None:
        """None where a router reads the norm too."""
        return None if layer.mixture is not None else self.network(layer)

    def network(self, layer: CudaLayer) -> Reader:
        mixture = layer.mixture
        name = "ffn_norm" if mixture is None or not mixture.beside else "shared_norm"
        return self.of(name, layer.buffers[name], self._gate_up(layer))

    def head(self) -> Reader:
        return self.of("output_norm", self._model.output_norm, self._products.of("head", [self._model.head_packed]))

    def behind(self, i: int) -> Reader | None:
        """Who reads the norm behind layer `i`'s feed-forward, where that is a product."""
        layers = self._model.layers
        if layers[i].plan.sizes.layer_input:
            return None
        if i + 1 < len(layers):
            return self.mixer(layers[i + 1])
        return self.head() if self._with_head else None

    def of(self, name: str, weight: Tensor, products: Sequence[PassProduct]) -> Reader:
        return Reader(name, weight, products, self._products.half(self._normed, self._model.config.hidden, products))

    def _gate_up(self, layer: CudaLayer) -> list[PassProduct]:
        """Products of gate and up, of a mixture those of its shared expert: one that gates, where the matrices are one
        in memory."""
        dense = layer.mixture is None
        pair = layer.packed["ffn"][:2] if dense else layer.packed["moe"][4:6]
        name = "gate_up" if dense else "shared_gate_up"
        if joined(pair) is None:
            return self._products.of(name, [(planes,) for planes in pair])
        return self._products.of(name, [pair], layer.plan.sizes.gate_function)
