"""What lies between a gated delta net's projections on the CPU: a thread takes heads, and of each the rows in turn.

A row of a head's state is read, corrected and written while it is in registers: for one token of a long text that is
all that takes time. Rows of a prompt find the state in a core's own cache; chunks of them as matrix products would save
little there beside the products of the layer's matrices (docs/log.md).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import gate_function, normalizer
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_f32, load_i64, store_f32
from kernel_templates.cpu.sync import LINE, barrier
from kernel_templates.gated_delta.problem import GatedDelta

LANES = 16
WIDEST = 128  # elements of a state's row that stay in registers
SPAN = 24
"""Bytes of a span: three int64, its first row, how many rows, and their text."""
STATES = 16
"""Bytes that describe a text's states: the addresses of conv_state and state."""


def scratch_bytes(problem: GatedDelta, config=None) -> int:
    """q, k, v and what is recalled of them, of one head."""
    return 4 * 4 * problem.head_dim


def compile(problem: GatedDelta, config, features) -> Kernel:
    dim, heads, key_heads, kernel = problem.head_dim, problem.heads, problem.key_heads, problem.kernel
    channels, row_size, per_thread = problem.channels, problem.projected_size, scratch_bytes(problem, config)
    z_at, beta_at, alpha_at = channels, channels + heads * dim, channels + heads * dim + heads
    load, silu, convolve = (
        simd.load("f32", LANES),
        gate_function("silu", LANES),
        _convolution(kernel, channels, row_size),
    )
    scale, normalize, advance = _unit_length(dim), normalizer(dim), _recurrence(dim, config["prefetch"])
    splat = simd.splat("f32", LANES)
    query_scale = np.float32(dim**-0.5)

    def gated_delta(arguments, sync, thread, threads):
        projected, conv, decays = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16)
        biases, norm, eps = load_i64(arguments + 24), load_i64(arguments + 32), load_f32(load_i64(arguments + 40))
        out, scratch = load_i64(arguments + 48), load_i64(arguments + 56) + thread * per_thread
        positions, states = load_i64(arguments + 64), load_i64(arguments + 72)
        spans, count = load_i64(arguments + 80), load_i64(load_i64(arguments + 88))
        q, k, v, recalled = scratch, scratch + 4 * dim, scratch + 8 * dim, scratch + 12 * dim
        work = count * heads
        for item in range(first_of(work, thread, threads), first_of(work, thread + 1, threads)):
            span, head = spans + SPAN * (item // heads), item % heads
            first, rows, text = load_i64(span), load_i64(span + 8), states + STATES * load_i64(span + 16)
            history, state = load_i64(text), load_i64(text + 8) + 4 * dim * dim * head
            key_channel, channel = dim * (head % key_heads), dim * (2 * key_heads + head)
            for row in range(first, first + rows):
                position, given = load_i64(positions + 8 * row), projected + 4 * row_size * row
                for part in range(3):
                    at = channel if part == 2 else key_channel + part * dim * key_heads
                    convolve(given, history, conv, at, row - first, position, q + 4 * dim * part, dim)
                scale(q, query_scale, eps)
                scale(k, np.float32(1.0), eps)
                if position == 0:
                    for i in range(0, dim * dim, LANES):
                        simd.store(state + 4 * i, splat(np.float32(0.0)))
                a = np.float64(load_f32(given + 4 * (alpha_at + head)) + load_f32(biases + 4 * head))
                softplus = max(a, 0.0) + math.log(1.0 + math.exp(-abs(a)))
                kept = np.float32(math.exp(load_f32(decays + 4 * head) * softplus))
                beta = np.float32(1.0 / (1.0 + math.exp(-np.float64(load_f32(given + 4 * (beta_at + head))))))
                advance(state, q, k, v, kept, beta, recalled)
                made, z = out + 4 * dim * (heads * row + head), given + 4 * (z_at + dim * head)
                normalize(recalled, norm, made, eps)
                for d in range(0, 4 * dim, 4 * LANES):
                    simd.store(made + d, load(made + d) * silu(load(z + d)))
        barrier(sync, threads)  # until here the convolution of any head may read what is overwritten now
        pieces = count * (channels // LANES)
        for piece in range(first_of(pieces, thread, threads), first_of(pieces, thread + 1, threads)):
            span, channel = spans + SPAN * (piece // (channels // LANES)), piece % (channels // LANES) * LANES
            first, rows, history = load_i64(span), load_i64(span + 8), load_i64(states + STATES * load_i64(span + 16))
            for row in range(max(first, first + rows - kernel), first + rows):
                slot = load_i64(positions + 8 * row) % kernel
                value = load(projected + 4 * (row_size * row + channel))
                simd.store(history + 4 * (channels * slot + channel), value)

    return compile_kernel(gated_delta, f"{problem.of_one_row.key} {config.key}")


def _convolution(kernel: int, channels: int, row_size: int):
    """njit (given: address of the row's projections; history: of the text's conv_state; conv: of the taps; channel;
    before: rows of the text that lie before this one; position; out; dim) -> None: silu of the convolution of `dim`
    channels."""
    load, silu = simd.load("f32", LANES), gate_function("silu", LANES)

    @device_function(kernel, channels, row_size)
    def convolve(given, history, conv, channel, before, position, out, dim):
        for d in range(0, dim, LANES):
            at = 4 * (channel + d)
            total = load(given + at) * load(conv + 4 * channels * (kernel - 1) + at)
            for t in range(1, min(position + 1, kernel)):
                source = given - 4 * row_size * t
                if t > before:
                    source = history + 4 * channels * ((position - t) % kernel)
                total = simd.fma(load(source + at), load(conv + 4 * channels * (kernel - 1 - t) + at), total)
            simd.store(out + 4 * d, silu(total))

    return convolve


def _unit_length(dim: int):
    """njit (x: address of float32 [dim], factor, eps) -> None: x = factor x / sqrt(|x|^2 + eps)."""
    load, splat = simd.load("f32", LANES), simd.splat("f32", LANES)

    @device_function(dim)
    def unit_length(x, factor, eps):
        squares = splat(np.float32(0.0))
        for d in range(0, 4 * dim, 4 * LANES):
            squares = simd.fma(load(x + d), load(x + d), squares)
        by = splat(factor / np.sqrt(simd.sum_f32(squares) + eps))
        for d in range(0, 4 * dim, 4 * LANES):
            simd.store(x + d, load(x + d) * by)

    return unit_length


def _recurrence(dim: int, prefetch: int):
    """njit (state: address of float32 [dim, dim]; q, k, v: of float32 [dim]; kept, beta; out) -> None:
    S = kept S, S = S + beta (v - S k) k^T, out = S q."""
    width = math.gcd(dim, WIDEST)
    load, splat = simd.load("f32", width), simd.splat("f32", width)

    @device_function(dim, prefetch)
    def recurrence(state, q, k, v, kept, beta, out):
        for j in range(dim):
            at = state + 4 * dim * j
            if prefetch:
                for line in range(0, 4 * dim, LINE):
                    simd.prefetch(at + prefetch + line)
            recalled = splat(np.float32(0.0))
            for i in range(0, 4 * dim, 4 * width):
                recalled = simd.fma(load(at + i), load(k + i), recalled)
            correction = beta * (load_f32(v + 4 * j) - kept * simd.sum_f32(recalled))
            made = splat(np.float32(0.0))
            for i in range(0, 4 * dim, 4 * width):
                row = simd.fma(load(k + i), splat(correction), load(at + i) * splat(kept))
                simd.store(at + i, row)
                made = simd.fma(row, load(q + i), made)
            store_f32(out + 4 * j, simd.sum_f32(made))

    return recurrence


def pack(problem: GatedDelta, config, weights) -> tuple:
    return ()


def bind(problem: GatedDelta, config, kernel, packed, buffers) -> Step:
    """Of one row, whose states may lack their first axis; or of several at places that are read here and now. A pass of
    the engine uses `bind_rows`."""
    if problem.rows == 1:
        positions, texts, starts = buffers["position"], np.zeros(1, np.int64), np.arange(2)
    else:
        positions = buffers["positions"].astype(np.int64)
        texts, starts = buffers["sequences"], buffers["first_rows"]
    used = [text for text in range(problem.sequences) if positions[starts[text]] >= 0]
    spans = [(starts[text], starts[text + 1] - starts[text], texts[starts[text]]) for text in used]
    shapes = ((-1, problem.kernel, problem.channels), (-1, problem.heads, problem.head_dim, problem.head_dim))
    kept = [buffers[name].reshape(shape) for name, shape in zip(("conv_state", "state"), shapes, strict=True)]
    each = np.array([described(*of_text) for of_text in zip(*kept, strict=True)], np.int64)
    made = bind_rows(kernel, buffers, positions, each, np.array(spans, np.int64), np.array([len(spans)]))
    return replace(made, keep=(*made.keep, *kept))


def bind_rows(kernel: Kernel, buffers, positions: np.ndarray, states: np.ndarray, spans: np.ndarray, count) -> Step:
    """`buffers` by the operation's names, with "scratch" but without states; positions: int64 [rows]; states: int64
    [texts, 2], of each what `described` says; spans: int64 [texts, 3], `SPAN`; count: of them, int64 [1]."""
    names = ("projected", "conv", "decay", "dt_bias", "norm", "eps", "out", "scratch")
    return step(kernel, (*(buffers[name] for name in names), positions, states, spans, count), "gated_delta")


def described(conv_state: np.ndarray, state: np.ndarray) -> Sequence[int]:
    """A text's states as rows find them. The arrays must be kept elsewhere."""
    return conv_state.ctypes.data, state.ctypes.data
