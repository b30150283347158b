"""How fast this processor can do the two things that bound a kernel: read memory, and multiply.

The read rate is the roof under which every matrix kernel is judged, so it is read as well as we know how: several
places at once per thread, with software prefetch (one place gives a quarter less, docs/log.md).
"""

import time
from collections.abc import Mapping

import numpy as np

from kernel_templates import memory
from kernel_templates.cpu import dot, machine, simd
from kernel_templates.cpu.compile import compile_kernel
from kernel_templates.cpu.graph import Graph, step
from kernel_templates.cpu.simd import load_i64
from kernel_templates.cpu.thread_pool import ThreadPool

STREAMS, AHEAD, LANES = 8, 1024, 64
_LINE = 64
PLAUSIBLE = 0.85
"""All threads read at least this share of what fewer read, on a machine that does nothing else."""
RETRIES = 2


def read_kernel(nbytes: int):
    """Sums `nbytes` of float32 (a multiple of 64 kB), each thread its own part, in STREAMS places at once."""
    load, splat = simd.load("f32", LANES), simd.splat("f32", LANES)

    def read(arguments, sync, thread, threads):
        data, out = load_i64(arguments), load_i64(arguments + 8)
        part = nbytes // threads // STREAMS // (4 * LANES) * (4 * LANES)
        acc = splat(np.float32(0.0))
        for i in range(0, part, 4 * LANES):
            for stream in range(STREAMS):
                at = data + (thread * STREAMS + stream) * part + i
                for line in range(4 * LANES // _LINE):
                    simd.prefetch(at + AHEAD + _LINE * line)
                acc = acc + load(at)
        simd.store(out + 4 * LANES * thread, acc)

    return compile_kernel(read, f"bandwidth read {nbytes} streams={STREAMS} ahead={AHEAD} lanes={LANES}")


def copy_kernel(nbytes: int):
    """Copies `nbytes` (a multiple of 64 kB) from one array to another."""
    load = simd.load("f32", LANES)

    def copy(arguments, sync, thread, threads):
        part = nbytes // threads // (4 * LANES) * (4 * LANES)
        source, target = load_i64(arguments) + thread * part, load_i64(arguments + 8) + thread * part
        for i in range(0, part, 4 * LANES):
            simd.store(target + i, load(source + i))

    return compile_kernel(copy, f"bandwidth copy {nbytes} lanes={LANES}")


_ROUNDS = 200_000


def int8_kernel(path: str):
    """Eight independent chains of integer dot products in registers, 4 multiply-adds a lane each."""
    lanes = 16
    load, multiply = simd.load("i32", lanes), dot.dot4(path, lanes, machine.features())

    def int8(arguments, sync, thread, threads):
        at = load_i64(arguments) + thread * 64 * lanes
        words = load(at)
        a, b, c, d = load(at), load(at + 64), load(at + 128), load(at + 192)
        e, f, g, h = load(at + 256), load(at + 320), load(at + 384), load(at + 448)
        for i in range(_ROUNDS):
            x = np.int32(i)
            a, b = multiply(a, words, x, x), multiply(b, words, x, x)
            c, d = multiply(c, words, x, x), multiply(d, words, x, x)
            e, f = multiply(e, words, x, x), multiply(f, words, x, x)
            g, h = multiply(g, words, x, x), multiply(h, words, x, x)
        simd.store(at, (a ^ b) + (c ^ d) + (e ^ f) + (g ^ h))

    return compile_kernel(int8, f"ceiling int8 {path} lanes={lanes}")


def f32_kernel():
    """Ten independent chains of fused multiply-adds in registers."""
    lanes = 16
    load = simd.load("f32", lanes)

    def f32(arguments, sync, thread, threads):
        at = load_i64(arguments) + thread * 64 * lanes
        x, y = load(at), load(at + 64)
        a, b, c, d, e = x, x + y, x - y, y, y + y
        f, g, h, i, j = x * y, x + x, y * y, x * x, y - x
        for _ in range(_ROUNDS):
            a, b, c = simd.fma(a, x, y), simd.fma(b, x, y), simd.fma(c, x, y)
            d, e, f = simd.fma(d, x, y), simd.fma(e, x, y), simd.fma(f, x, y)
            g, h, i, j = simd.fma(g, x, y), simd.fma(h, x, y), simd.fma(i, x, y), simd.fma(j, x, y)
        simd.store(at, a + b + c + d + e + f + g + h + i + j)

    return compile_kernel(f32, f"ceiling f32 lanes={lanes}")


class ReadProbe:
    """Memory read on demand, to compare a kernel with the machine as it is at that moment."""

    def __init__(self, team: ThreadPool, nbytes: int):
        self.nbytes = nbytes // 65536 * 65536
        data = memory.empty((self.nbytes // 4,), np.float32)
        data.fill(1.0)
        self._graph = Graph(
            team, [step(read_kernel(self.nbytes), (data, memory.zeros((64 * team.threads,), np.float32)))]
        )

    def seconds(self, threads: int | None = None) -> float:
        """Time of reading everything once, on the first `threads` of the pool (None: all)."""
        start = time.perf_counter()
        self._graph.replay(threads)
        return time.perf_counter() - start


def ceilings(threads: int, nbytes: int = 1 << 29, repeats: int = 15) -> dict[str, float]:
    """Measured roofs: read_gb_s and copy_gb_s (both directions counted) from memory, int8_gop_s and f32_gflop_s (an
    operation is a multiplication or an addition). The best tenth of `repeats` on the best number of threads, some
    seconds: a roof is what the machine can do, not what a busy neighbour left of it.

    Fewer threads that read clearly more than all of them show such a neighbour: everything is measured again, and
    `busy`, the share of the best rate that all threads read, is among the roofs if that did not help.
    """
    team = ThreadPool(threads)
    try:
        measured = _roofs(team, nbytes, repeats)
        for _ in range(RETRIES):
            if "busy" not in measured:
                break
            measured = better(measured, _roofs(team, nbytes, repeats))
    finally:
        team.close()
    return measured


def better(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The higher of each roof; `busy` only if both measurements were."""
    merged = {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {**one, **other}}
    if not ("busy" in one and "busy" in other):
        merged.pop("busy", None)
    return merged


def _roofs(team: ThreadPool, nbytes: int, repeats: int) -> dict[str, float]:
    counts = sorted({team.threads, *(1 << i for i in range(team.threads.bit_length()) if 1 << i <= team.threads)})
    probe = ReadProbe(team, nbytes)
    half = nbytes // 2
    copies = Graph(team, [step(copy_kernel(half), (memory.zeros((half,), np.uint8), memory.zeros((half,), np.uint8)))])
    scratch = np.random.default_rng(0).random((team.threads * 64 * 16 // 4,), np.float32) * np.float32(0.5)
    path = dot.available(machine.features())[-1]
    integers = Graph(team, [step(int8_kernel(path), (scratch.copy().view(np.int32),))])
    floats = Graph(team, [step(f32_kernel(), (scratch,))])
    # The read rate is the roof of almost every kernel, so that every count of threads has as many chances.
    read = {n: probe.nbytes / _best([probe.seconds(n) for _ in range(repeats)]) / 1e9 for n in counts}
    found = {
        "read_gb_s": max(read.values()),
        "copy_gb_s": max(2 * half / _time(copies, n, repeats) / 1e9 for n in counts),
        "int8_gop_s": max(8 * 16 * 4 * 2 * _ROUNDS * n / _time(integers, n, repeats) / 1e9 for n in counts),
        "f32_gflop_s": max(10 * 16 * 2 * _ROUNDS * n / _time(floats, n, repeats) / 1e9 for n in counts),
    }
    share = read[team.threads] / found["read_gb_s"]
    return found | ({"busy": share} if share < PLAUSIBLE else {})


def _best(times: list[float]) -> float:
    return float(np.quantile(times, 0.1))


def _time(graph: Graph, threads: int, repeats: int) -> float:
    graph.replay(threads)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        graph.replay(threads)
        times.append(time.perf_counter() - start)
    return _best(times)
