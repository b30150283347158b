"""Experts that stay in host memory: what stands in a program of the GPU in the place of a mixture.

A token's residual stream goes to the host, the CPU's templates do the layer's feed-forward half, router included, and
the stream comes back: 8 kB each way for 2048 elements, and one stop of the device a layer.

A pass over many rows goes the same way, or its experts come to the device: they lie in pinned memory in the layout that
the GPU's kernels read, and go through two buffers on the device in turn, the next layer's while the present one is
computed. So host memory holds these experts twice, since a processor reads them in another layout.
"""

import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kernel_templates import memory
from kernel_templates.cuda.rows import take_row
from kernel_templates.cuda.vector import Vector
from kernel_templates.cuda.weights import Planes, joined, split
from kernel_templates.moe.problem import Moe
from model import widths
from model.cuda.execution import Cut
from model.errors import ModelError
from model.problems import ACTIVATION

if TYPE_CHECKING:
    from model.cpu.experts import Experts  # with Numba, which a GPU that holds the whole model does without

ALIGN, MOST_PLANES = 256, 12
"""Bytes to which planes in a piece of memory are aligned, and how many of them a layer's experts have at most."""
NEVER = math.inf
MOST = widths.MOST["cpu"]
"""Rows that the host computes at once."""


class HostExperts:
    """Of some layers, in their order. stream_from: by problem, rows from which on a pass has its experts copied to the
    device; hidden: float32 [hidden] on the device, what a token leaves."""

    def __init__(self, experts: "Experts", x: Tensor, device: torch.device) -> None:
        """x: what `experts` compute on, in pinned memory."""
        self.experts, self._x, self.device = experts, x, device
        self.stream_from: dict[Moe, float] = dict.fromkeys(experts.problems.values(), NEVER)
        self.hidden = torch.empty(x.shape[1], device=device)
        self._held: dict[int, Tensor] = {}
        self._order: list[int] = []
        self._staging: tuple[Tensor, ...] = ()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: dict[int, Any] = {}
        self._inside: list[int | None] = [None, None]
        """Which layer's experts each buffer has, or will."""

    def keep(self, layer: int, packed: tuple[Planes, ...]) -> "HostMixture":
        """Take a layer's matrices, as the GPU packs them; the device may forget gate, up and down of the experts."""
        self.experts.open(layer)
        experts = _joined(packed[1:4])
        if self._staging:
            self._held[layer] = pinned(_size(experts), self.device)
            for to, tensor in zip(_carved(experts, self._held[layer]), _tensors(experts), strict=True):
                to.copy_(tensor)
        shapes = tuple(Planes(p.format, p.rows, p.cols, tuple(_shape(t) for t in p.tensors)) for p in experts)
        self._order = sorted(self._held)
        return HostMixture(self, layer, packed[0], shapes, packed[4:])

    @property
    def streams(self) -> bool:
        """Whether experts can be copied to the device."""
        return bool(self._staging)

    def drop(self, layer: int) -> None:
        """Forget a layer's experts."""
        self.experts.drop(layer)
        self._held.pop(layer, None)
        self._order = sorted(self._held)
        self.forget_copies()

    def forget_copies(self) -> None:
        """Have `fetch` copy again what is on the device."""
        self._inside = [None, None]

    def stage(self, size: int) -> None:
        """Have layers that are kept from now on ready to be copied to the device, through two buffers there of so many
        bytes."""
        whole = size + MOST_PLANES * ALIGN
        self._staging = tuple(torch.empty(whole, dtype=torch.uint8, device=self.device) for _ in range(2))

    def buffer(self, layer: int) -> Tensor:
        """Where a layer's experts are while it is computed."""
        return self._staging[self._order.index(layer) % 2]

    def take(self, x: Tensor) -> None:
        """Bring rows of the residual stream, float32 [rows, hidden] on the device, to the host, and wait for them."""
        self._x[: len(x)].copy_(x, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def give(self, x: Tensor) -> None:
        """The other way; the host may change its rows when what was started before the next `take` is done."""
        x.copy_(self._x[: len(x)], non_blocking=True)

    def token(self, layer: int, x: Vector) -> None:
        """One token through a layer on the host, to `hidden`."""
        self.take(x.values[None])
        self.experts.run(layer)
        self.give(self.hidden[None])

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> None:
        """x float32 [rows, hidden] through a layer on the host; of positions int32 [rows] those at -1 are not used."""
        used = (positions.cpu().numpy() >= 0).nonzero()[0]
        count = int(used[-1]) + 1 if len(used) else 0
        for first in range(0, count, MOST):
            part = x[first : min(first + MOST, count)]
            self.take(part)
            self.experts.run(layer, len(part))
            self.give(part)

    def fetch(self, layer: int) -> None:
        """Have the device wait for a layer's experts, and begin to copy the next one's."""
        at = self._order.index(layer)
        for place in (at, at + 1):
            if place < len(self._order) and self._inside[place % 2] != self._order[place]:
                self._inside[place % 2] = None  # until all of it is under way
                self._copy(self._order[place])
                self._inside[place % 2] = self._order[place]
        if self._copies is not None:
            torch.cuda.current_stream().wait_event(self._copied[layer])

    def _copy(self, layer: int) -> None:
        held = self._held[layer]
        to = self.buffer(layer)[: len(held)]
        if self._copies is None:
            to.copy_(held)
            return
        self._copies.wait_stream(torch.cuda.current_stream())  # which may read what lies there
        with torch.cuda.stream(self._copies):
            to.copy_(held, non_blocking=True)
            self._copied[layer] = torch.cuda.Event()
            self._copied[layer].record()

    def close(self) -> None:
        self.experts.close()


@dataclass(frozen=True)
class HostMixture:
    """A layer's experts in host memory. shapes: of their gate, up and down, without values; router and shared, the
    matrices of a shared expert, are on the device."""

    host: HostExperts
    layer: int
    router: Planes
    shapes: tuple[Planes, ...]
    shared: tuple[Planes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the experts."""
        return sum(planes.nbytes for planes in self.shapes)

    def token(self, x: Vector, next_norm: Tensor) -> list[Any]:
        """The feed-forward half of one token: x as `moe.cuda.launches` leaves it."""
        work = Cut("experts", lambda: self.host.token(self.layer, x))
        return [work, take_row.launch(self.host.hidden, next_norm, x, ACTIVATION)]

    def streamed(self, rows: int) -> bool:
        """Whether a pass of so many rows computes on the device."""
        return rows >= self.host.stream_from[self.host.experts.problems[self.layer]]

    def rows(self, x: Tensor, positions: Tensor) -> Cut:
        """As of `HostExperts`."""
        return Cut("experts", lambda: self.host.rows(self.layer, x, positions))

    def fetch(self) -> Cut:
        """Before the kernels that read `packed`."""
        return Cut("fetch experts", lambda: self.host.fetch(self.layer))

    @property
    def without_values(self) -> tuple[Planes, ...]:
        """As the layer has them, but of gate, up and down only the shapes."""
        return (self.router, *_apart(self.shapes), *self.shared)

    @property
    def packed(self) -> tuple[Planes, ...]:
        """As the layer has them, all on the device; from `fetch` to the next layer but one's."""
        tensors = iter(_carved(self.shapes, self.host.buffer(self.layer)))
        return (self.router, *_apart([_with(planes, tensors) for planes in self.shapes]), *self.shared)


def pinned(size: int, device: torch.device) -> Tensor:
    """uint8 [size] in host memory, which a GPU copies from by itself. Raises ModelError where the system does not let
    so much memory be pinned."""
    array = memory.empty((max(size, memory.HUGE),), np.uint8)  # from that size on in pages of its own
    made = torch.from_numpy(array)
    if device.type == "cuda":
        runtime: Any = torch.cuda.cudart()
        # torch's own pinned memory comes in powers of two.
        if int(runtime.cudaHostRegister(made.data_ptr(), made.nbytes, 0)):
            raise ModelError(
                f"the system does not pin {made.nbytes / 1e9:.2f} GB more of host memory for the GPU; free memory, "
                "raise ulimit -l, or use --device cpu"
            )
        weakref.finalize(array, runtime.cudaHostUnregister, made.data_ptr())
    return made[:size]


def _joined(experts: Sequence[Planes]) -> tuple[Planes, ...]:
    """Gate and up as one where they lie together, and down."""
    gate, up, down = experts
    both = joined((gate, up))
    return (gate, up, down) if both is None else (both, down)


def _apart(experts: Sequence[Planes]) -> tuple[Planes, ...]:
    """Gate, up and down."""
    first, *others = experts
    return (*split(first, (first.rows // 2,) * 2), *others) if len(others) == 1 else tuple(experts)


def _tensors(planes: Sequence[Planes]) -> Iterator[Tensor]:
    return (tensor for each in planes for tensor in each.tensors)


def _size(planes: Sequence[Planes]) -> int:
    """Bytes of the memory that they are carved from."""
    return sum(-(-tensor.nbytes // ALIGN) * ALIGN for tensor in _tensors(planes))


def _carved(planes: Sequence[Planes], piece: Tensor) -> Iterator[Tensor]:
    """Tensors of the same shapes in a piece of uint8 memory, one behind the other."""
    at = 0
    for tensor in _tensors(planes):
        yield piece[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        at += -(-tensor.nbytes // ALIGN) * ALIGN


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _with(planes: Planes, tensors: Iterator[Tensor]) -> Planes:
    return Planes(planes.format, planes.rows, planes.cols, tuple(next(tensors) for _ in planes.tensors))
