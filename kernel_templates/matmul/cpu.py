"""Y = X W^T on the CPU: a panel of the matrix is decoded once, and multiplied with all tokens.

The threads write x down for the products first, each its share of the tokens; after a barrier each multiplies its share
of the rows. A panel of `depth` columns stays in a core's nearest cache while the tokens pass by.
"""

from dataclasses import dataclass

import numpy as np

from kernel_templates import formats
from kernel_templates.cpu import simd, tiles
from kernel_templates.cpu.activations import gate_function
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.many_rows import RowLayout, row_writer
from kernel_templates.cpu.matrix import first_of, planes_of
from kernel_templates.cpu.micro import MicroShape, micro_kernel
from kernel_templates.cpu.panels import BLOCK, minimums, panel_bytes, panel_filler, step_of
from kernel_templates.cpu.simd import load_f32, load_i64, store_f32
from kernel_templates.cpu.sync import barrier
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config

LANES = 32
"""Rows of a tile where no decode step has packed the matrix."""


@dataclass(frozen=True)
class _Build:
    """What machine code depends on: a configuration, as far as the packed tiles allow it."""

    format: str
    cols: int
    gate: str
    lanes: int
    kind: str
    path: str
    width: int
    together: int
    depth: int

    @property
    def row(self) -> RowLayout:
        return RowLayout(self.cols, self.kind, minimums(self.layout) if self.kind == "int16" else 0)

    @property
    def layout(self):
        return formats.get(self.format).layout

    @property
    def steps(self) -> int:
        """Of a panel's columns."""
        return max(1, min(self.depth, self.cols) // step_of(self.layout))

    @property
    def panel(self) -> tuple[int, int]:
        return panel_bytes(self.layout, self.kind, self.width, self.steps * step_of(self.layout))

    def padded(self, tokens: int) -> int:
        return -(-tokens // self.together) * self.together

    def shared_bytes(self, tokens: int) -> int:
        """Of the tokens' records, behind which a thread's own memory begins."""
        return _lines(self.padded(tokens) * self.row.bytes)

    def own_bytes(self, tokens: int) -> int:
        """A panel; sums that are no whole tokens and rows, or those of gate and up."""
        sums = 4 * self.width * (2 * self.padded(tokens) if self.gate else self.together)
        return _lines(sum(map(_lines, self.panel)) + sums)


def _lines(size: int) -> int:
    return -(-size // 64) * 64


def _build(problem: Matmul, config: Config, lanes: int) -> _Build:
    kind = "int16" if config["algorithm"] == "integer" else "f32"
    width = min(config["width"], lanes)
    return _Build(
        problem.format, problem.cols, problem.gate, lanes, kind, config["path"], width,
        config["together"], config["depth"],
    )  # fmt: skip


def scratch_bytes(problem: Matmul, config: Config, lanes: int = LANES) -> int:
    build = _build(problem, config, lanes)
    return build.shared_bytes(problem.tokens) + build.own_bytes(problem.tokens)


def compile(problem: Matmul, config: Config, features: frozenset[str], lanes: int = LANES) -> Kernel:
    """lanes: rows of a packed tile."""
    build = _build(problem, config, lanes)
    row, layout, width, together = build.row, build.layout, build.width, build.together
    write, fill = row_writer(row), panel_filler(layout, build.kind, lanes, width)
    multiply = micro_kernel(MicroShape(width, together, build.path, row, row.totals), features)
    record, per_row, depth, cols = row.bytes, build.cols // step_of(layout), build.steps, build.cols
    blocks = step_of(layout) // BLOCK
    numbers_bytes = _lines(build.panel[0])
    sums_at = sum(map(_lines, build.panel))
    gated, load, gate = bool(build.gate), simd.load("f32", width), gate_function(build.gate or "silu", width)

    def matmul(arguments, sync, thread, threads):
        w0, w1, w2, w3 = planes_of(arguments)
        x, y, scratch = load_i64(arguments + 32), load_i64(arguments + 40), load_i64(arguments + 48)
        rows, shared, per_thread = load_i64(arguments + 56), load_i64(arguments + 64), load_i64(arguments + 72)
        tokens = load_i64(load_i64(arguments + 80))
        own = scratch + shared + thread * per_thread
        scales, sums = own + numbers_bytes, own + sums_at

        for t in range(first_of(tokens, thread, threads), first_of(tokens, thread + 1, threads)):
            write(x + 4 * cols * t, scratch + record * t)
        barrier(sync, threads)
        padded = (tokens + together - 1) // together * together
        outputs = rows // 2 if gated else rows
        panels = (outputs + width - 1) // width
        for panel in range(first_of(panels, thread, threads), first_of(panels, thread + 1, threads)):
            for part in range(2 if gated else 1):
                begin = panel * width + part * outputs
                whole_rows = panel * width + width <= outputs
                tile, row_of_tile = begin // lanes, begin % lanes
                for first in range(0, per_row, depth):
                    count = min(depth, per_row - first)
                    fill(w0, w1, w2, w3, tile * per_row + first, row_of_tile, count, own, scales)
                    add = 1 if first > 0 else 0
                    for t in range(0, tokens, together):
                        if gated:
                            out, stride = sums + 4 * width * (part * padded + t), 4 * width
                        elif whole_rows and t + together <= tokens:
                            out, stride = y + 4 * (rows * t + begin), 4 * rows
                        else:
                            out, stride = sums, 4 * width
                            if add:
                                for i in range(min(together, tokens - t)):
                                    for j in range(min(width, rows - begin)):
                                        at = y + 4 * (rows * (t + i) + begin + j)
                                        store_f32(sums + 4 * (width * i + j), load_f32(at))
                        multiply(own, scales, scratch + record * t, first * blocks, count * blocks, out, stride, add)
                        if out == sums and not gated:
                            for i in range(min(together, tokens - t)):
                                for j in range(min(width, rows - begin)):
                                    at = y + 4 * (rows * (t + i) + begin + j)
                                    store_f32(at, load_f32(sums + 4 * (width * i + j)))
            if gated:
                for t in range(tokens):
                    g, u = load(sums + 4 * width * t), load(sums + 4 * width * (padded + t))
                    simd.store(y + 4 * (outputs * t + panel * width), gate(g) * u)

    return compile_kernel(matmul, f"matmul {build}")


def pack(problem: Matmul, config: Config, weights) -> tuple[tiles.Tiles, ...]:
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, LANES),)


def bind(problem: Matmul, config: Config, kernel: Kernel, packed, buffers) -> Step:
    """buffers: x float32 [tokens, cols], y float32 [tokens, outputs], scratch, and where fewer tokens than the problem's
    may come, "count" int64 [1]."""
    (w,) = packed
    build = _build(problem, config, w.lanes)
    shared, per_thread = build.shared_bytes(problem.tokens), scratch_bytes(problem, config, w.lanes)
    count = buffers.get("count", np.array([problem.tokens], np.int64))
    x, y, scratch = (buffers[name] for name in ("x", "y", "scratch"))
    return step(kernel, (*w.arguments(), x, y, scratch, problem.rows, shared, per_thread, count), "matmul")
