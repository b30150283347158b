"""Rows times their experts' matrices on the CPU: a panel of a matrix is decoded once, and multiplied with all its rows.

All rows are written down first, in the order of their experts; after the only barrier each thread multiplies its share
of every matrix's panels, with the loops of `matmul`. A matrix that no row has is not read. Packed, an expert is whole
tiles behind those of the expert before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernel_templates.cpu import tiles
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.many_rows import write
from kernel_templates.cpu.matrix import first_of, planes_of
from kernel_templates.cpu.simd import load_i64
from kernel_templates.cpu.sync import barrier
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul.cpu import Build, build_of, loops_of, panel_loop
from kernel_templates.matmul.problem import Matmul
from kernel_templates.space import Config

LANES = 32
"""Rows of a tile where no decode step has packed the matrices; fewer where an expert has no whole ones."""


@dataclass(frozen=True)
class Sorted:
    """Pairs of tokens and experts in the order of the experts. offsets: int64 [experts + 1], where each begins; pairs:
    int64 [pairs], the number of each."""

    offsets: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, experts: int) -> "Sorted":
        """ids: int32 [pairs], the expert of each."""
        offsets = np.searchsorted(np.sort(ids), np.arange(experts + 1))
        return cls(offsets.astype(np.int64), np.argsort(ids, kind="stable").astype(np.int64))


def lanes_of(problem: GroupedMatmul) -> int:
    return int(np.gcd(problem.rows, LANES))


def _build(problem: GroupedMatmul, config: Config, lanes: int) -> Build:
    return build_of(Matmul(problem.rows, problem.cols, problem.format, problem.pairs), config, lanes)


def _shared_bytes(problem: GroupedMatmul, build: Build) -> int:
    """Of the pairs' records: the last expert's may be read past its end."""
    return build.shared_bytes(problem.pairs + build.together)


def scratch_bytes(problem: GroupedMatmul, config: Config, lanes: int = 0) -> int:
    build = _build(problem, config, lanes or lanes_of(problem))
    return _shared_bytes(problem, build) + build.own_bytes(problem.pairs)


def compile(problem: GroupedMatmul, config: Config, features: frozenset[str], lanes: int = 0) -> Kernel:
    """lanes: rows of a packed tile. Sizes are data: problems that differ in nothing else share machine code."""
    build = _build(problem, config, lanes or lanes_of(problem))
    direct = build.direct
    multiply_panel = panel_loop(gated=False, direct=direct, scattered=True)

    def grouped_matmul(arguments, sync, thread, threads):
        planes = planes_of(arguments)
        x, y, scratch = load_i64(arguments + 32), load_i64(arguments + 40), load_i64(arguments + 48)
        offsets, pairs, experts = load_i64(arguments + 56), load_i64(arguments + 64), load_i64(arguments + 72)
        rows, cols, share = load_i64(arguments + 80), load_i64(arguments + 88), load_i64(arguments + 96)
        own = scratch + load_i64(arguments + 104) + thread * load_i64(arguments + 112)
        written, writer, build = load_i64(arguments + 120), load_i64(arguments + 128), arguments + 136
        width, record = load_i64(build + 8), load_i64(build + 48)
        scales_at, sums_at = load_i64(build + 56), load_i64(build + 64)

        if not written:
            count = load_i64(offsets + 8 * experts)
            for i in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
                row = load_i64(pairs + 8 * i) // share
                write(writer, (x + 4 * cols * row, scratch + record * i, cols, scales_at, sums_at))
            barrier(sync, threads)
        parts = (rows + width - 1) // width
        for expert in range(experts):
            first, end = load_i64(offsets + 8 * expert), load_i64(offsets + 8 * expert + 8)
            if first < end:
                turn = (thread + expert) % threads  # shares that are not equal are so in the end
                for panel in range(first_of(parts, turn, threads), first_of(parts, turn + 1, threads)):
                    begin, some = expert * rows + panel * width, min(width, rows - panel * width)
                    out = y - 4 * expert * rows
                    records, order = scratch + record * first, pairs + 8 * first
                    multiply_panel(build, planes, begin, some, 0, records, end - first, out, rows, own, order)

    return compile_kernel(grouped_matmul, f"grouped matmul {direct}").with_rows(*loops_of(build, features))


def pack(problem: GroupedMatmul, config: Config, weights) -> tuple[tiles.Tiles, ...]:
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, lanes_of(problem)),)


def bind(
    problem: GroupedMatmul, config: Config, kernel: Kernel, packed: Sequence[tiles.Tiles],
    buffers: Mapping[str, np.ndarray], order: Sorted | None = None, written: bool = False,
) -> Step:  # fmt: skip
    """buffers: x float32 [rows of x, cols]; y float32 [pairs, rows]; scratch; and where there is no `order` yet,
    expert_ids int32 [pairs], sorted now. written: the step before has written the same rows' records, for a product
    built alike, into the same scratch."""
    (w,) = packed
    build = _build(problem, config, w.lanes)
    found = order or Sorted.of(buffers["expert_ids"], problem.experts)
    x, y, scratch = (buffers[name] for name in ("x", "y", "scratch"))
    sizes = (problem.experts, problem.rows, problem.cols, problem.share)
    own = (_shared_bytes(problem, build), scratch_bytes(problem, config, w.lanes), int(written))
    named = (*w.arguments(), x, y, scratch, found.offsets, found.pairs, *sizes, *own)
    return step(kernel, (*named, *build.arguments(kernel)), "grouped_matmul")
