"""Decoding attention on the CPU: threads take (key head, chunk of positions) pairs, then join the chunks of each head.

Each pair keeps its own softmax (largest score m, sum l of e^(s-m), weighted values); chunks join by rescaling with
e^(m - max m) (Milakov and Gimelshein 2018; split over positions as in flash decoding). With a window, chunks begin
at the vector of positions that has the window's first. A sink is one more part of that join: m its score, l 1, no
values.
"""

import functools
from collections.abc import Callable

import numpy as np

from kernel_templates import memory
from kernel_templates.attention.cache import TILE
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import exponential, soft_cap
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_f32, load_i64, store_f32
from kernel_templates.cpu.sync import LINE, barrier

LOWEST = np.float32(-3.0e38)
AHEAD = 4096
"""Bytes ahead that keys and values are asked for."""


def scratch_bytes(problem: Attention, config) -> int:
    """Scores of one chunk for the heads that run together."""
    return 4 * config["chunk"] * config["heads_together"]


def compile(problem: Attention, config, features) -> Kernel:
    dim, group, kv_heads, heads = problem.head_dim, problem.heads // problem.kv_heads, problem.kv_heads, problem.heads
    chunk, lanes, together = config["chunk"], config["positions_together"], config["heads_together"]
    window, softcap, has_sinks = problem.window, problem.softcap, problem.sinks == 1
    scale = np.float32(problem.score_scale)
    splat, load_scores = simd.splat("f32", lanes), simd.load("f32", lanes)
    query = 4 * problem.query_size
    score = _scores(dim, lanes, chunk, together, query)
    weigh = _weighted_values(_widths(dim, together), dim, chunk, together)
    splat_out, load_out = simd.splat("f32", dim), simd.load("f32", dim)
    capped = soft_cap(softcap or 1.0, lanes)
    gated, exp_out = problem.output_gate == 1, exponential(dim)
    exp, exp16, splat16 = exponential(lanes), exponential(16), simd.splat("f32", 16)
    per_thread = scratch_bytes(problem, config)
    record = 4 * (dim + 16)  # bytes of a partial result: values, then m and l on a line of their own

    def attention(arguments, sync, thread, threads):
        q, keys, values = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16)
        count = load_i64(load_i64(arguments + 24)) + 1
        partial, out = load_i64(arguments + 32), load_i64(arguments + 40)
        scores = load_i64(arguments + 48) + thread * per_thread
        tiles, most_chunks = load_i64(arguments + 56), load_i64(arguments + 64)
        sinks = load_i64(arguments + 72)
        oldest = max(count - window, 0) if window else 0
        origin = oldest // lanes * lanes
        chunks = (count - origin + chunk - 1) // chunk
        items = kv_heads * chunks
        for item in range(first_of(items, thread, threads), first_of(items, thread + 1, threads)):
            kv, piece = item // chunks, item % chunks
            first = origin + piece * chunk
            length = min(chunk, count - first)
            skipped = max(oldest - first, 0) if window else 0  # of the first vector
            for start in range(0, group, together):
                for i in range(0, length, lanes):
                    at = keys + 2 * ((kv * tiles + (first + i) // TILE) * dim * TILE + (first + i) % TILE)
                    score(q + query * (kv * group + start), at, scores + 4 * i)
                for h in range(together):
                    head = kv * group + start + h
                    largest = splat(LOWEST)
                    for i in range(0, length, lanes):
                        s = load_scores(scores + 4 * (h * chunk + i)) * splat(scale)
                        if softcap:
                            s = capped(s)
                        s = simd.keep_first(s, length - i, LOWEST)
                        if window:
                            s = simd.minimum(s, simd.keep_first(splat(LOWEST), skipped - i, -LOWEST))
                        simd.store(scores + 4 * (h * chunk + i), s)
                        largest = simd.maximum(largest, s)
                    m = simd.max_f32(largest)
                    total = splat(np.float32(0.0))
                    for i in range(0, length, lanes):
                        e = exp(load_scores(scores + 4 * (h * chunk + i)) - splat(m))
                        e = simd.keep_first(e, length - i, np.float32(0.0))
                        simd.store(scores + 4 * (h * chunk + i), e)
                        total = total + e
                    at = partial + (head * most_chunks + piece) * record
                    store_f32(at + 4 * dim, m)
                    store_f32(at + 4 * dim + 4, simd.sum_f32(total))
                at = partial + ((kv * group + start) * most_chunks + piece) * record
                first_value = values + 2 * (kv * tiles * TILE + first) * dim
                weigh(first_value, scores, skipped, length, at, most_chunks * record)
        barrier(sync, threads)
        for head in range(first_of(heads, thread, threads), first_of(heads, thread + 1, threads)):
            at = partial + head * most_chunks * record
            m = load_f32(sinks + 4 * head) if has_sinks else LOWEST
            for piece in range(chunks):
                m = max(m, load_f32(at + piece * record + 4 * dim))
            total, acc = np.float32(0.0), splat_out(np.float32(0.0))
            if has_sinks:
                total = simd.max_f32(exp16(splat16(load_f32(sinks + 4 * head) - m)))
            for piece in range(chunks):
                here = at + piece * record
                factor = simd.max_f32(exp16(splat16(load_f32(here + 4 * dim) - m)))
                total += factor * load_f32(here + 4 * dim + 4)
                acc = simd.fma(load_out(here), splat_out(factor), acc)
            acc = acc * splat_out(np.float32(1.0) / total)
            if gated:
                gate = load_out(q + query * head + 4 * dim)
                acc = acc / (splat_out(np.float32(1.0)) + exp_out(gate * splat_out(np.float32(-1.0))))
            simd.store(out + 4 * head * dim, acc)

    return compile_kernel(attention, f"{problem.without_context.key} {config.key}")


SUMS = 256
"""Numbers that the sums of heads which run together take: half of the registers of AVX-512, all of AVX2's and more."""


def _widths(dim: int, together: int) -> tuple[int, ...]:
    """Vectors that hold a head's elements, powers of two: compilers take a vector of 96 apart into ever smaller ones.
    The sums of all heads over one of them stay in registers."""
    most = 1 << (SUMS // together).bit_length() - 1
    rest = dim % most
    return (most,) * (dim // most) + tuple(1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1)


@functools.cache
def _scores(dim: int, lanes: int, chunk: int, together: int, query: int) -> Callable:
    """njit (q, keys, scores: addresses of the first head's query, the next one `query` bytes on, of the first
    position's first element, and of its score [together, chunk]) -> None: products of `together` heads with `lanes`
    positions. Each head has two sums, as an addition takes four cycles."""
    load, splat = simd.load("f16", lanes), simd.splat("f32", lanes)

    @device_function(dim, lanes, chunk, together, query)
    def score(q, keys, scores):
        a = splat(np.float32(0.0))
        b, c, d, e, f, g, h = a, a, a, a, a, a, a
        for i in range(0, dim, 2):
            row = keys + 2 * TILE * i
            for line in range(0, 2 * lanes, LINE):
                simd.prefetch(row + AHEAD + line)
                simd.prefetch(row + 2 * TILE + AHEAD + line)
            x, y = simd.to_f32(load(row)), simd.to_f32(load(row + 2 * TILE))
            at = q + 4 * i
            a, b = simd.fma(x, splat(load_f32(at)), a), simd.fma(y, splat(load_f32(at + 4)), b)
            if together > 1:
                at += query
                c, d = simd.fma(x, splat(load_f32(at)), c), simd.fma(y, splat(load_f32(at + 4)), d)
            if together > 2:
                at += query
                e, f = simd.fma(x, splat(load_f32(at)), e), simd.fma(y, splat(load_f32(at + 4)), f)
            if together > 3:
                at += query
                g, h = simd.fma(x, splat(load_f32(at)), g), simd.fma(y, splat(load_f32(at + 4)), h)
        simd.store(scores, a + b)
        if together > 1:
            simd.store(scores + 4 * chunk, c + d)
        if together > 2:
            simd.store(scores + 8 * chunk, e + f)
        if together > 3:
            simd.store(scores + 12 * chunk, g + h)

    return score


@functools.cache
def _weighted_values(widths: tuple[int, ...], dim: int, chunk: int, together: int) -> Callable:
    """njit (values, scores: addresses of the first position's value and of the scores [together, chunk], first and end
    of the positions, out: address of the first head's sum, step: bytes to the next's) -> None: vector after vector."""
    width, others = widths[0], widths[1:]
    rest = _weighted_values(others, dim, chunk, together) if others else None
    load, splat = simd.load("f16", width), simd.splat("f32", width)

    @device_function(widths, dim, chunk, together)
    def weigh(values, scores, first, end, out, step):
        a = splat(np.float32(0.0))
        b, c, d = a, a, a
        for i in range(first, end):
            for line in range(0, 2 * width, LINE):
                simd.prefetch(values + 2 * dim * i + AHEAD + line)
            v = simd.to_f32(load(values + 2 * dim * i))
            a = simd.fma(splat(load_f32(scores + 4 * i)), v, a)
            if together > 1:
                b = simd.fma(splat(load_f32(scores + 4 * (chunk + i))), v, b)
            if together > 2:
                c = simd.fma(splat(load_f32(scores + 4 * (2 * chunk + i))), v, c)
            if together > 3:
                d = simd.fma(splat(load_f32(scores + 4 * (3 * chunk + i))), v, d)
        simd.store(out, a)
        if together > 1:
            simd.store(out + step, b)
        if together > 2:
            simd.store(out + 2 * step, c)
        if together > 3:
            simd.store(out + 3 * step, d)

    if rest is None:
        return weigh

    @device_function(widths, dim, chunk, together)
    def weigh_all(values, scores, first, end, out, step):
        weigh(values, scores, first, end, out, step)
        rest(values + 2 * width, scores, first, end, out + 4 * width, step)

    return weigh_all


def pack(problem: Attention, config, weights) -> tuple:
    return ()


def _most_chunks(problem: Attention, config, tiles: int) -> int:
    """Chunks of positions that a cache of so many tiles may need."""
    reach = min(tiles * TILE, problem.window + config["positions_together"]) if problem.window else tiles * TILE
    return -(-reach // config["chunk"])


def partial_size(problem: Attention, config, positions: int) -> int:
    """float32 elements of the chunks' results over a cache for `positions` positions."""
    return problem.heads * _most_chunks(problem, config, -(-positions // TILE)) * (problem.head_dim + 16)


def bind(problem: Attention, config, kernel, packed, buffers) -> Step:
    """`buffers` may hold "partial", at least `partial_size` elements for the chunks' results, which calls that follow
    each other can share."""
    tiles = buffers["keys"].shape[1]
    most_chunks = _most_chunks(problem, config, tiles)
    partial = buffers.get("partial")
    if partial is None:
        partial = memory.empty((partial_size(problem, config, tiles * TILE),), np.float32)
    named = [buffers[n] for n in ("q", "keys", "values", "position")]
    arguments = (
        *named,
        partial,
        buffers["out"],
        buffers["scratch"],
        tiles,
        most_chunks,
        buffers["sinks"] if problem.sinks else 0,
    )
    return step(kernel, arguments, "attention")
