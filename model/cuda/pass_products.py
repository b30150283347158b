"""The products of a pass over many rows: what they read, in which order of columns, and where their results go."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kernel_templates import registry
from kernel_templates.cuda import fragments, library
from kernel_templates.cuda.fragments import NATURAL
from kernel_templates.cuda.norm_between import Behind, InFront
from kernel_templates.cuda.rows import add_norm
from kernel_templates.cuda.weights import Planes
from kernel_templates.matmul import cuda as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import LIBRARY
from model.cuda.pass_buffers import InOrders
from model.cuda.pass_operands import Half, PassProduct, cut
from model.cuda.row_norms import Norms, Reader, of_following

if TYPE_CHECKING:
    from model.cuda.forward import Forward


class PassProducts:
    """Makes products over `rows` rows, and launches them. norms: those of the pass."""

    def __init__(self, forward: "Forward", rows: int, norms: Norms) -> None:
        self._forward, self._rows, self._norms = forward, rows, norms
        self._expanded = 0  # matrices so far, which are expanded in turn into what buffers there are

    def half(self, buffers: InOrders, cols: int, products: Sequence[PassProduct]) -> Half:
        order = products[0].order
        return Half(cut(buffers[cols, order], self._rows, fragments.width(cols, order)), cols, order)

    def of(self, name: str, groups: Sequence[tuple[Planes, ...]], function: str = "") -> list[PassProduct]:
        """Products of one input, whose columns they read in one order: where configurations differ in it, all go
        through the library."""
        found = []
        for parts in groups:
            rows = sum(planes.rows for planes in parts)
            problem = Matmul(rows, parts[0].cols, parts[0].format, self._rows, gate=function)
            found.append(PassProduct(name, parts, problem, self._forward.configs(problem)))
        if len({product.order for product in found}) > 1:
            found = [replace(product, config=LIBRARY) for product in found]
        return found

    def multiply_normed(
        self, reader: Reader, branch: add_norm.Branch | None, y: Tensor, y_order: int = NATURAL
    ) -> Iterator[Any]:
        """A norm and the products that read it."""
        made, behind = self._norms.read(reader, branch)
        yield from made
        yield from self.multiply(reader.products, reader.h, y, y_order, norm=behind)

    def multiply(
        self, products: Sequence[PassProduct], h: Half, y: Tensor, y_order: int = NATURAL,
        factor: float | None = None, norm: InFront | Behind | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        """y = x W^T of matrices one below the other; with a factor, y += factor times that; norm: on one side of them,
        if it has no kernel of its own."""
        template, forward, first = registry.cuda(Matmul.op), self._forward, 0
        for product in products:
            problem = product.problem
            out = y if problem.gate else y[:, first : first + problem.rows]
            first += problem.rows
            scratch = matmul.scratch_size(problem, product.config)
            library_gate = problem.gate and product.order == NATURAL
            buffers = {
                "name": product.name, "x": {h.order: h.values}, "y": out, "y_order": y_order, "turn": self._expanded,
                "expanded": forward.buffers.expanded, "counters": forward.buffers.counters,
                "matmul_scratch": forward.buffers.wide if library_gate else forward.matmul_scratch(scratch),
            }  # fmt: skip
            if factor is not None:
                buffers["add"] = factor
            if norm is not None:
                buffers["norm"], norm = norm, of_following(norm)
            for launch in template.launches(problem, product.config, product.parts, buffers):
                self._expanded += isinstance(launch, library.Expand)
                yield launch


def adds(products: Sequence[PassProduct], branch: add_norm.Branch) -> bool:
    """Whether products add their branch to the residual stream: the library reads and writes that beside computing."""
    return branch.plain and all(matmul.adds(product.config) for product in products)
