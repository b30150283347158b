"""Matrix products of many tokens through the library: a matrix is expanded into a reused buffer, then multiplied.

y [rows, n] = x [rows, k] W^T, x and W in float16, sums in float32, y in either. What is made here runs, loads and is
captured as a `Launch` is. Expanding kernels and the library's are started without programmatic dependent launch: an
expanding kernel does not wait, and a library's may let the next one start before it has read its operands.

With two buffers the next matrix is expanded beside the present product, on a stream that forks from the chain before
that product and joins it before its own: `beside`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kernel_templates.cuda import expand, weights
from kernel_templates.cuda.launch import Target
from kernel_templates.cuda.weights import Planes


@dataclass(frozen=True)
class Expand:
    """Writes matrices that lie one below the other to `out` float16 [rows, cols]. On CPU tensors torch does it."""

    parts: tuple[Planes, ...]
    out: Tensor
    name: str = "expand"

    def run(self, target: Target) -> None:
        for planes, rows in self._pieces():
            if self.out.is_cuda:
                expand.launch(planes, rows).run(replace(target, pdl=False))
            else:
                rows.copy_(weights.unpack(planes))

    def load(self, target: Target) -> None:
        if self.out.is_cuda:
            for planes, rows in self._pieces():
                expand.launch(planes, rows).load(replace(target, pdl=False))

    def _pieces(self) -> Iterator[tuple[Planes, Tensor]]:
        return zip(self.parts, self.out.split([p.rows for p in self.parts]), strict=True)


@dataclass(frozen=True)
class Multiply:
    """y = factor x matrix^T, or with `add` y += that; x float16 [rows, k], matrix float16 [n, k], y float32 or float16
    [rows, n], whose rows may lie apart. Sums are float32."""

    name: str
    x: Tensor
    matrix: Tensor
    y: Tensor
    factor: float = 1.0
    add: bool = False

    def run(self, target: Target) -> None:
        y, beta = self.y, int(self.add)
        if not y.is_cuda:
            product = self.factor * (self.x.float() @ self.matrix.float().T)
            y.copy_(y + product if self.add else product)
        elif y.dtype == self.x.dtype:
            torch.addmm(y, self.x, self.matrix.T, beta=beta, alpha=self.factor, out=y)
        else:
            torch.addmm(y, self.x, self.matrix.T, out_dtype=y.dtype, beta=beta, alpha=self.factor, out=y)

    def load(self, target: Target) -> None:
        """Run it, so that the library has loaded its kernel and has its workspace before a capture. What it would add
        to stays as it is: it may still be read."""
        kept = self.y.clone() if self.add else None
        self.run(target)
        if kept is not None:
            self.y.copy_(kept)


@dataclass(frozen=True)
class Aside:
    """Runs an expansion on a stream of its own, after all that was started before."""

    expand: Expand
    stream: torch.cuda.Stream
    done: torch.cuda.Event = field(default_factory=torch.cuda.Event)

    @property
    def name(self) -> str:
        return self.expand.name

    def run(self, target: Target) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.expand.run(target)
            self.done.record()

    def load(self, target: Target) -> None:
        self.expand.load(target)


@dataclass(frozen=True)
class Join:
    """What follows waits for an expansion aside."""

    aside: Aside
    name: str = "join"

    def run(self, target: Target) -> None:
        torch.cuda.current_stream().wait_event(self.aside.done)

    def load(self, target: Target) -> None:
        pass


def product(
    name: str, parts: Sequence[Planes], x: Tensor, y: Tensor, buffers: Sequence[Tensor], turn: int, factor: float = 1.0,
    add: bool = False,
) -> Iterator[Any]:  # fmt: skip
    """y = factor x W^T, or with `add` y += that, of matrices one below the other, in pieces of as many rows as a buffer
    holds. buffers: float16, used in turn, beginning with number `turn` of all that were."""
    first, cols = 0, x.shape[1]
    for i, piece in enumerate(_pieces(parts, buffers[0].numel() // cols // 16 * 16), turn):
        rows = sum(p.rows for p in piece)
        matrix = buffers[i % len(buffers)][: rows * cols].view(rows, cols)
        yield Expand(piece, matrix)
        yield Multiply(name, x, matrix, y[:, first : first + rows], factor, add)
        first += rows


def _pieces(parts: Sequence[Planes], most: int) -> list[tuple[Planes, ...]]:
    """All in one if that is few enough rows, else each alone and cut."""
    if sum(p.rows for p in parts) <= most:
        return [tuple(parts)]
    cuts = [(p, first, min(first + most, p.rows)) for p in parts for first in range(0, p.rows, most)]
    return [(Planes(p.format, end - a, p.cols, tuple(t[a:end] for t in p.tensors)),) for p, a, end in cuts]


def beside(launches: Sequence[Any], stream: torch.cuda.Stream) -> list[Any]:
    """The same, each expansion beside the product before its own. Neighbouring products must have different buffers."""
    made: list[Any] = []
    last: int | None = None  # where the last product stands
    waiting: Aside | None = None
    for launch in launches:
        if isinstance(launch, Expand) and last is not None:
            waiting = Aside(launch, stream)
            made.insert(last, waiting)
            continue
        if isinstance(launch, Multiply):
            if waiting is not None:
                made.append(Join(waiting))
                waiting = None
            last = len(made)
        made.append(launch)
    return made
