"""Several matrices that multiply one normed vector, their rows one behind the other in the output.

Neighbours of one format are packed as one. Each thread norms and quantizes the vector for itself, then takes its share
of the row tiles, which may begin in one group and end in another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from kernel_templates.cpu import blocks, matrix, parameters, tiles
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, device_function
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply, tiles_of
from kernel_templates.lazy import torch
from kernel_templates.operation import Weight
from kernel_templates.problem import Matrix
from kernel_templates.space import Config, Constraint


@dataclass(frozen=True)
class Group:
    """Neighbouring matrices of one format."""

    names: tuple[str, ...]
    rows: int
    format: str


def whole_tiles(matrices: Sequence[Matrix]) -> Constraint:
    """Of matrices in one `Stack`, for a space whose parameter "lanes" is the rows of a tile."""
    ends = accumulate(m.rows for m in matrices)
    changes = [end for end, (m, after) in zip(ends, pairwise(matrices), strict=False) if m.format != after.format]
    return Constraint(
        "whole tiles before a change of format",
        f"{', '.join(m.name for m in matrices)} lie one behind the other: a tile that ends in the next one's "
        "rows would overwrite them",
        lambda c: all(rows % c["lanes"] == 0 for rows in changes),
    )


@dataclass(frozen=True)
class Stack:
    """matrices: all with as many columns; activation: what x is quantized to where a format is of integers; path: of
    the integer dot product."""

    matrices: tuple[Matrix, ...]
    activation: str
    path: str

    @property
    def cols(self) -> int:
        return self.matrices[0].cols

    @property
    def groups(self) -> tuple[Group, ...]:
        found = ((name, list(some)) for name, some in groupby(self.matrices, key=lambda m: m.format))
        return tuple(Group(tuple(m.name for m in some), sum(m.rows for m in some), name) for name, some in found)

    @property
    def layouts(self) -> tuple[ActivationLayout, ...]:
        """The activations that the groups read: one or two kinds."""
        return tuple(dict.fromkeys(self.read_by(group) for group in self.groups))

    @property
    def scratch_bytes(self) -> int:
        """Of a thread: the normed x, then its activations."""
        return 4 * self.cols + sum(layout.bytes for layout in self.layouts)

    @property
    def words(self) -> int:
        """int64 arguments that `bind` gives."""
        return len(self.groups) * matrix.BYTES // 8

    def read_by(self, group: Group) -> ActivationLayout:
        return blocks.activations(group.format, self.cols, self.activation, self.path)

    def place(self, group: Group) -> int:
        """Byte offset of the activations that a group reads, in a thread's scratch."""
        first = self.layouts[0]
        return 4 * self.cols + (0 if self.read_by(group) == first else first.bytes)

    def product(self) -> Callable:
        """njit (arguments: address of the words of `bind`; x, norm: addresses of float32 [cols]; eps; scratch: address
        of the thread's; out: address of float32 [rows]; thread, threads) -> None: the thread's tiles of W n, n =
        rmsnorm(x) * norm, which the scratch then begins with."""
        count, layouts = len(self.groups), self.layouts
        normalize, quantize, quantize_other = normalizer(self.cols), quantizer(layouts[0]), quantizer(layouts[-1])
        two_kinds, first_x, other_x = len(layouts) > 1, 4 * self.cols, 4 * self.cols + layouts[0].bytes

        @device_function(count, layouts)
        def stacked_product(arguments, x, norm, eps, scratch, out, thread, threads):
            normalize(x, norm, scratch, eps)
            quantize(scratch, scratch + first_x)
            if two_kinds:
                quantize_other(scratch, scratch + other_x)
            total = 0
            for g in range(count):
                total += tiles_of(arguments + matrix.BYTES * g)
            first, last, before = first_of(total, thread, threads), first_of(total, thread + 1, threads), 0
            for g in range(count):
                group = arguments + matrix.BYTES * g
                low, high = max(first - before, 0), min(last - before, tiles_of(group))
                if low < high:
                    multiply(group, low, high, scratch, out + 4 * lanes_of(group) * before, 0)
                before += tiles_of(group)

        return stacked_product

    def compile_rows(self, config: Config, features: frozenset[str]) -> list[Kernel]:
        """The loops over each group."""
        return [
            blocks.compile_rows(parameters.shape(config, group.format, self.cols), self.read_by(group), features)
            for group in self.groups
        ]

    def pack(self, config: Config, weights: Mapping[str, Weight]) -> tuple[tiles.Tiles, ...]:
        return tuple(
            tiles.pack(torch.cat([weights[name].raw for name in g.names]), self.cols, g.format, config["lanes"])
            for g in self.groups
        )

    def bind(self, kernel: Kernel, packed: Sequence[tiles.Tiles]) -> list:
        """The arguments that `product` reads, `words` of them."""
        parts = zip(packed, kernel.rows, self.groups, strict=True)
        return [word for p, rows, group in parts for word in matrix.arguments(p, rows, self.place(group))]
