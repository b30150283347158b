"""The norms of a pass in order: each by a kernel of its own, or, of few rows between two products of `thin`, at the end
of the one and of the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kernel_templates.cuda import thin
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.norm_between import Behind, InFront
from kernel_templates.cuda.rows import add_norm
from model.cuda.pass_buffers import PassBuffers
from model.cuda.pass_operands import Half, PassProduct

MOST_ROWS, MOST_HIDDEN = 8, 768
"""Of a pass that leaves out the kernels of norms. Measured on an H200 (docs/log.md): 4 to 7% of a pass of SmolLM2-135M,
whose hidden size is 576; at 1,024 the longer ends of products cost more than the kernels do, and so they do at 576 from
16 rows on."""


@dataclass(frozen=True)
class Reader:
    """Who reads a norm: name and weight of the norm, the products, and h, where they read it."""

    name: str
    weight: Tensor
    products: Sequence[PassProduct]
    h: Half


class Norms:
    """x: the residual stream, float32 [rows, hidden]."""

    def __init__(self, x: Tensor, buffers: PassBuffers, eps: float) -> None:
        self._x, self._buffers, self._eps = x, buffers, eps
        self._few = len(x) <= MOST_ROWS and x.shape[1] <= MOST_HIDDEN
        self._number = 0
        self._parts = 0
        """Programs of the product that has left the coming norm, 0 if it has a kernel."""

    def in_front(
        self, products: Sequence[PassProduct], branch: add_norm.Branch, reader: Reader | None
    ) -> InFront | None:
        """What products in front of a norm take to add their branch themselves and to leave the norm to its reader;
        None where that takes a kernel. The reader is the next to ask."""
        if not (self._few and reader is not None and branch.plain and len(products) == 1 and _thin(products)):
            return None
        (product,) = products
        if product.config["split"] > 1 or not _thin(reader.products):
            return None
        self._parts = thin.programs(product.problem.rows, product.config["tiles"], "")
        return InFront(self._x, reader.weight, branch.factor, self._buffers.squares, self._place(self._number - 1))

    def read(self, reader: Reader, branch: add_norm.Branch | None) -> tuple[list[Launch], Behind | None]:
        """The kernel of a norm, and what goes into the stream before; or what its reader takes instead."""
        parts, self._parts = self._parts, 0
        number, self._number = self._number, self._number + 1
        if parts:
            places = self._place(number - 1), self._place(number)
            return [], Behind(parts, self._buffers.squares, *places, self._eps)
        after = self._place(number) if self._few else None
        norm = add_norm.Norm(reader.weight, reader.h.values, reader.h.order, after)
        return [add_norm.launch(reader.name, self._x, branch, norm, self._eps)], None

    def _place(self, number: int) -> Tensor:
        return self._buffers.norm_scales[number % 2]


def of_following(norm: InFront | Behind | None) -> InFront | Behind | None:
    """What a second product behind the same norm takes: the first has written what comes after."""
    return replace(norm, after=None) if isinstance(norm, Behind) else norm


def _thin(products: Sequence[PassProduct]) -> bool:
    return bool(products) and all(product.config["algorithm"] == "thin" for product in products)
