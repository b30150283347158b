"""Who reads which norm of a pass: the products behind it, and where they find it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from kernel_templates.cuda.weights import Planes, joined
from model.cuda.load import CudaLayer
from model.cuda.pass_products import PassProducts
from model.cuda.row_norms import PassProduct, Reader

if TYPE_CHECKING:
    from model.cuda.forward import Forward


class Readers:
    """Of a pass through a model; head: whether it ends with logits."""

    def __init__(self, forward: "Forward", products: PassProducts, head: bool) -> None:
        self._model, self._normed, self._products, self._with_head = (
            forward.model,
            forward.buffers.normed,
            products,
            head,
        )

    def mixer(self, layer: CudaLayer) -> Reader:
        name = layer.plan.steps[0].name
        products = self._products.of(name, [(planes,) for planes in layer.packed[name]])
        return self.of("attn_norm", layer.buffers["attn_norm"], products)

    def feed_forward(self, layer: CudaLayer) -> Reader | None:
        """None where a router reads the norm too."""
        if layer.mixture is not None:
            return None
        return self.network("gate_up", "ffn_norm", layer, layer.packed["ffn"][:2])

    def network(self, name: str, norm: str, layer: CudaLayer, network: Sequence[Planes]) -> Reader:
        """Gate and up, as one product where they are one in memory."""
        gate_planes, up = network
        one = joined((gate_planes, up)) is not None
        function = layer.plan.sizes.gate_function if one else ""
        products = self._products.of(name, [(gate_planes, up)] if one else [(gate_planes,), (up,)], function)
        return self.of(norm, layer.buffers[norm], products)

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
