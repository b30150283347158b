"""Y = X W^T on the CPU: a panel of the matrix is decoded once, and multiplied with all tokens.

The threads write x down for the products first, each its share of the tokens; after a barrier each multiplies its share
of the rows. A panel of `depth` columns stays in a core's nearest cache while the tokens pass by.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from kernel_templates import formats
from kernel_templates.cpu import columns, many_rows, micro, panels, simd, tiles
from kernel_templates.cpu.activations import gate_function
from kernel_templates.cpu.columns import ColumnShape, multiply_columns
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.many_rows import RowLayout, write
from kernel_templates.cpu.matrix import first_of, planes_of
from kernel_templates.cpu.micro import MicroShape, multiply
from kernel_templates.cpu.panels import BLOCK, fill, minimums, panel_bytes, step_of
from kernel_templates.cpu.parameters import AHEAD
from kernel_templates.cpu.simd import load_f32, load_i64, store_f32
from kernel_templates.cpu.sync import barrier
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config

LANES = 32
"""Rows of a tile where no decode step has packed the matrix."""
KINDS = {"integer": "int16", "float": "f32"}
"""Of the numbers that panels of an algorithm hold, and of the activations that they are multiplied with."""
_Y = 5  # which argument


@dataclass(frozen=True)
class Build:
    """What machine code depends on: a configuration, as far as the packed tiles allow it."""

    format: str
    cols: int
    gate: str
    lanes: int
    algorithm: str
    path: str
    width: int
    together: int
    depth: int

    @property
    def direct(self) -> bool:
        """Whether weights are decoded in registers, without a panel."""
        return self.algorithm == "columns"

    @property
    def row(self) -> RowLayout:
        if self.direct:
            return RowLayout(self.cols, columns.kind(self.path), columns.totals(self.layout))
        return RowLayout(self.cols, KINDS[self.algorithm], minimums(self.layout) if self.algorithm == "integer" else 0)

    @property
    def layout(self):
        return formats.get(self.format).layout

    @property
    def steps(self) -> int:
        """Of a panel's columns."""
        depth = self.cols if self.direct else min(self.depth, self.cols)
        return max(1, depth // step_of(self.layout))

    @property
    def panel(self) -> tuple[int, int]:
        if self.direct:
            return 0, 0
        return panel_bytes(self.layout, KINDS[self.algorithm], self.width, self.steps * step_of(self.layout))

    def padded(self, tokens: int) -> int:
        return -(-tokens // self.together) * self.together

    def arguments(self, kernel: Kernel) -> tuple[int, ...]:
        """What writes a token down, then what `panel_loop` reads: sizes, places in a record and in a thread's own
        memory, the other loops."""
        write_row, *loops = kernel.rows
        step = step_of(self.layout)
        sizes = (self.lanes, self.width, self.together, self.steps, self.cols // step, step // BLOCK)
        places = (self.row.bytes, self.row.scales, self.row.sums)
        inside = (_lines(self.panel[0]), sum(map(_lines, self.panel)))
        return (write_row.address, *sizes, *places, *inside, *(loop.address for loop in loops))

    def shared_bytes(self, tokens: int) -> int:
        """Of the tokens' records, behind which a thread's own memory begins."""
        return _lines(self.padded(tokens) * self.row.bytes)

    def own_bytes(self, tokens: int) -> int:
        """A panel; sums that are no whole tokens and rows, or those of gate and up."""
        sums = 4 * self.width * (2 * self.padded(tokens) if self.gate else self.together)
        return _lines(sum(map(_lines, self.panel)) + sums)


def _lines(size: int) -> int:
    return -(-size // 64) * 64


def build_of(problem: Matmul, config: Config, lanes: int) -> Build:
    width = min(config["width"], lanes) if config["algorithm"] == "columns" else config["width"]
    return Build(
        problem.format, problem.cols, problem.gate, lanes, config["algorithm"], config["path"], width,
        config["together"], config["depth"],
    )  # fmt: skip


def scratch_bytes(problem: Matmul, config: Config, lanes: int = LANES) -> int:
    build = build_of(problem, config, lanes)
    return build.shared_bytes(problem.tokens) + build.own_bytes(problem.tokens)


def compile(problem: Matmul, config: Config, features: frozenset[str], lanes: int = LANES) -> Kernel:
    """lanes: rows of a packed tile. Sizes are data: problems that differ in nothing else share machine code."""
    build = build_of(problem, config, lanes)
    gated, direct = bool(build.gate), build.direct
    gate_width = build.width if gated else 1
    load, gate = simd.load("f32", gate_width), gate_function(build.gate or "silu", gate_width)

    multiply_panel = panel_loop(gated, direct)

    def matmul(arguments, sync, thread, threads):
        planes = planes_of(arguments)
        x, y, scratch = load_i64(arguments + 32), load_i64(arguments + 40), load_i64(arguments + 48)
        tokens, wide, rows = load_i64(load_i64(arguments + 56)), load_i64(arguments + 64), load_i64(arguments + 72)
        cols, shared, per_thread = load_i64(arguments + 80), load_i64(arguments + 88), load_i64(arguments + 96)
        writer, build = load_i64(arguments + 104), arguments + 112
        width, together = load_i64(build + 8), load_i64(build + 16)
        record, scales_at, sums_at = load_i64(build + 48), load_i64(build + 56), load_i64(build + 64)
        own = scratch + shared + thread * per_thread

        for t in range(first_of(tokens, thread, threads), first_of(tokens, thread + 1, threads)):
            write(writer, (x + 4 * cols * t, scratch + record * t, cols, scales_at, sums_at))
        barrier(sync, threads)
        padded = (tokens + together - 1) // together * together
        outputs = rows // 2 if gated else rows
        parts = (outputs + width - 1) // width
        for panel in range(first_of(parts, thread, threads), first_of(parts, thread + 1, threads)):
            for part in range(2 if gated else 1):
                begin = panel * width + part * outputs
                some = min(width, rows - begin)
                multiply_panel(build, planes, begin, some, part, scratch, tokens, y, wide, own, 0)
            if gated:
                sums = own + load_i64(build + 80)
                for t in range(tokens):
                    g, u = load(sums + 4 * width * t), load(sums + 4 * width * (padded + t))
                    simd.store(y + 4 * (wide * t + panel * width), gate(g) * u)

    return compile_kernel(matmul, f"matmul {build.gate} {gate_width} {direct}").with_rows(*loops_of(build, features))


@functools.cache
def panel_loop(gated: bool, direct: bool, scattered: bool = False) -> Callable:
    """njit (build, planes, begin, some, part, records, tokens, y, wide, own, order) -> None: `some` rows of a matrix,
    from row `begin` on, times tokens. build: address of the numbers of `Build.arguments` behind the first; planes: of
    the matrix; part: 0, or 1 for the second of a gated product's two; records: of the tokens; y: of their outputs, rows
    of `wide`; own: the thread's memory; order: where scattered, of int64 [tokens], the row of y of each."""

    @device_function(gated, direct, scattered)
    def multiply_panel(build, planes, begin, some, part, records, tokens, y, wide, own, order):
        w0, w1, w2, w3 = planes
        in_tile, width, together = load_i64(build), load_i64(build + 8), load_i64(build + 16)
        depth, per_row, blocks = load_i64(build + 24), load_i64(build + 32), load_i64(build + 40)
        record, scales_at, sums_at = load_i64(build + 48), load_i64(build + 56), load_i64(build + 64)
        scales, sums = own + load_i64(build + 72), own + load_i64(build + 80)
        filler, loop = load_i64(build + 88), load_i64(build + 96)
        # Loops count: a step that is not known could be zero, for which Numba raises, by functions of Python's that
        # a kernel from the cache does not have.
        groups, chunks = (tokens + together - 1) // together, (per_row + depth - 1) // depth
        padded = groups * together
        tile, row_of_tile = begin // in_tile, begin % in_tile
        for chunk in range(chunks):
            first = chunk * depth
            count, add = min(depth, per_row - first), 1 if first > 0 else 0
            index = tile * per_row + first
            if not direct:
                tiles_of_panel = (some + in_tile - 1) // in_tile
                panel_at = (index, row_of_tile, count, own, scales, tiles_of_panel, per_row)
                fill(filler, (w0, w1, w2, w3, *panel_at))
            for group in range(groups):
                t = group * together
                few = min(together, tokens - t)
                out, stride, at = sums, 4 * width, y + 4 * (wide * t + begin)
                edge = scattered or few < together or some < width
                if gated:
                    out = sums + 4 * width * (part * padded + t)
                elif not edge:
                    out, stride = at, 4 * wide
                elif add:
                    if scattered:
                        for i in range(few):
                            _copy(
                                y + 4 * (wide * load_i64(order + 8 * (t + i)) + begin), 0, out + stride * i, 0, 1, some
                            )
                    else:
                        _copy(at, 4 * wide, out, stride, few, some)
                token, block = records + record * t, first * blocks
                if direct:
                    some_planes = (w0, w1, w2, w3, index, row_of_tile, count)
                    multiply_columns(loop, (*some_planes, token, record, scales_at, sums_at, out, stride))
                else:
                    places = (own, scales, token, record, scales_at, sums_at, block, count * blocks)
                    multiply(loop, (*places, out, stride, add))
                if edge and not gated:
                    if scattered:
                        for i in range(few):
                            _copy(
                                out + stride * i, 0, y + 4 * (wide * load_i64(order + 8 * (t + i)) + begin), 0, 1, some
                            )
                    else:
                        _copy(out, stride, at, 4 * wide, few, some)

    return multiply_panel


def loops_of(build: Build, features: frozenset[str]) -> tuple[Kernel, Kernel, Kernel]:
    """What writes a token down, what decodes a panel, what multiplies; the second is not called where the third decodes
    for itself."""
    row, width, together = build.row, build.width, build.together
    write_row = many_rows.compile(row.kind, row.totals)
    if build.direct:
        few = ColumnShape(build.layout, build.lanes, width, together, build.path, AHEAD)
        loop = columns.compile(few, features)
        return write_row, loop, loop
    shape = MicroShape(row.kind, width, together, build.path, row.totals)
    return write_row, panels.compile(build.layout, row.kind, build.lanes, width), micro.compile(shape, features)


@njit(forceinline=True)
def _copy(source, source_stride, target, target_stride, tokens, rows):
    """float32 of some rows of some tokens; strides in bytes."""
    for t in range(tokens):
        for i in range(0, 4 * rows, 4):
            store_f32(target + target_stride * t + i, load_f32(source + source_stride * t + i))


def pack(problem: Matmul, config: Config, weights) -> tuple[tiles.Tiles, ...]:
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, LANES),)


def bind(problem: Matmul, config: Config, kernel: Kernel, packed, buffers, first: int = 0) -> Step:
    """buffers: x float32 [tokens, cols]; y float32 [tokens, outputs], or of wider rows, whose `first` number is the
    product's; scratch; and where fewer tokens than the problem's may come, "count" int64 [1]."""
    (w,) = packed
    build = build_of(problem, config, w.lanes)
    shared, own = build.shared_bytes(problem.tokens), scratch_bytes(problem, config, w.lanes)
    count = buffers.get("count", np.array([problem.tokens], np.int64))
    x, y, scratch = (buffers[name] for name in ("x", "y", "scratch"))
    wide = y.shape[-1] if y.ndim == 2 else problem.outputs
    sizes = (wide, problem.rows, problem.cols, shared, own)
    bound = step(kernel, (*w.arguments(), x, y, scratch, count, *sizes, *build.arguments(kernel)), "matmul")
    bound.arguments[_Y] += 4 * first
    return bound
