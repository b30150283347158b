"""What a layer does to many rows between its products: a row is one token of one text.

The number of rows, their positions and texts are read when a kernel runs, so one graph serves any pass up to its size.
Rows are dealt out to the threads; between two kernels of a graph lies a barrier.
"""

import math
from collections.abc import Sequence

import numpy as np

from kernel_templates.attention.cache import TILE
from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import exponential, gate_function, input_mixer, normalizer, soft_cap
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_f32, load_i64

LANES = 16
CACHE = 24  # bytes that describe a text's cache


def compile_add(hidden: int, post_norm: bool, has_bias: bool = False, out_scale: bool = False) -> Kernel:
    """x += branch, or rmsnorm(branch) * post_norm; the branch with a bias, if it has one; then, if asked for, x is
    multiplied with out_scale. hidden: a multiple of 16, of all row lengths here."""
    load, normalize, splat = simd.load("f32", LANES), normalizer(hidden), simd.splat("f32", LANES)

    def add_rows(arguments, sync, thread, threads):
        x, branch, count = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        weight, eps, bias = load_i64(arguments + 24), load_f32(load_i64(arguments + 32)), load_i64(arguments + 40)
        scale = load_i64(arguments + 48)
        for row in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            at, other = x + 4 * hidden * row, branch + 4 * hidden * row
            if has_bias:
                for i in range(0, 4 * hidden, 4 * LANES):
                    simd.store(other + i, load(other + i) + load(bias + i))
            if post_norm:
                normalize(other, weight, other, eps)
            for i in range(0, 4 * hidden, 4 * LANES):
                v = load(at + i) + load(other + i)
                if out_scale:
                    v = v * splat(load_f32(scale))
                simd.store(at + i, v)

    return compile_kernel(add_rows, f"add rows {hidden} {post_norm} {has_bias} {out_scale}")


def bind_add(kernel: Kernel, x, branch, count, post_norm, eps, bias=0, out_scale=0) -> Step:
    """x, branch: float32 [rows, hidden]; count: int64 [1]; post_norm, bias: float32 [hidden], or 0; out_scale: float32
    [1], or 0."""
    return step(kernel, (x, branch, count, post_norm, eps, bias, out_scale), "add")


def compile_norm(hidden: int) -> Kernel:
    """out = rmsnorm(x) * weight."""
    normalize = normalizer(hidden)

    def norm_rows(arguments, sync, thread, threads):
        x, out, count = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        weight, eps = load_i64(arguments + 24), load_f32(load_i64(arguments + 32))
        for row in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            normalize(x + 4 * hidden * row, weight, out + 4 * hidden * row, eps)

    return compile_kernel(norm_rows, f"norm rows {hidden}")


def bind_norm(kernel: Kernel, x, out, count, weight, eps) -> Step:
    return step(kernel, (x, out, count, weight, eps), "norm")


def compile_gate(ffn: int, function: str) -> Kernel:
    """gate = g(gate) * up, g the gate function of that name."""
    load, gated = simd.load("f32", LANES), gate_function(function, LANES)

    def gate_rows(arguments, sync, thread, threads):
        gate, up, count = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        size = count * (ffn // LANES)
        for i in range(first_of(size, thread, threads), first_of(size, thread + 1, threads)):
            at = gate + 4 * LANES * i
            simd.store(at, gated(load(at)) * load(up + 4 * LANES * i))

    return compile_kernel(gate_rows, f"gate rows {ffn} {function}")


def bind_gate(kernel: Kernel, gate, up, count) -> Step:
    """gate, up: float32 [rows, ffn]."""
    return step(kernel, (gate, up, count), "gate")


def compile_gate_input(size: int, stride: int) -> Kernel:
    """gate = gelu(gate) * a layer's part of the inputs, whose rows are `stride` elements apart."""
    load, gelu = simd.load("f32", LANES), gate_function("gelu", LANES)

    def gate_input_rows(arguments, sync, thread, threads):
        gate, inputs, count = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        inputs += 4 * load_i64(arguments + 24)
        for row in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            at, other = gate + 4 * size * row, inputs + 4 * stride * row
            for i in range(0, 4 * size, 4 * LANES):
                simd.store(at + i, gelu(load(at + i)) * load(other + i))

    return compile_kernel(gate_input_rows, f"gate input rows {size} {stride}")


def bind_gate_input(kernel: Kernel, gate, inputs, count, first: int) -> Step:
    """gate: float32 [rows, size]; inputs: float32 [rows, stride], of which the layer's part begins at `first`."""
    return step(kernel, (gate, inputs, count, first), "gate_input")


def compile_mix_inputs(hidden: int, layers: int, size: int) -> Kernel:
    """inputs = what `PerLayerInputs` says, of W x and of the inputs before."""
    mix = input_mixer(hidden, size)

    def mix_input_rows(arguments, sync, thread, threads):
        projected, norm, inputs = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16)
        parts, eps = load_i64(load_i64(arguments + 24)) * layers, load_f32(load_i64(arguments + 32))
        for part in range(first_of(parts, thread, threads), first_of(parts, thread + 1, threads)):
            mix(projected + 4 * size * part, norm, inputs + 4 * size * part, eps)

    return compile_kernel(mix_input_rows, f"mix input rows {hidden} {layers} {size}")


def bind_mix_inputs(kernel: Kernel, projected, norm, inputs, count, eps) -> Step:
    """projected, inputs: float32 [rows, layers * size]; norm: float32 [size]."""
    return step(kernel, (projected, norm, inputs, count, eps), "mix_inputs")


def compile_append(
    heads: int, kv_heads: int, dim: int, rope_dim: int, qk_norm: bool, bias: bool, query_size: int, v_norm: bool = False
) -> Kernel:
    """Of each row of qkv: bias, QK norm and RoPE in place, values over their RMS if `v_norm`; keys and values to its
    text's cache at its position. Without key-value heads a row has queries alone. query_size: elements from one query
    to the next."""
    half = rope_dim // 2
    normalize, divide_by_rms = normalizer(dim), normalizer(dim, weighted=False)
    width, value_width = math.gcd(half, 16), math.gcd(dim, 16)
    load, load_value = simd.load("f32", width), simd.load("f32", value_width)
    units, row_size = heads + 2 * kv_heads, heads * query_size + 2 * kv_heads * dim

    def append_rows(arguments, sync, thread, threads):
        qkv, count, rope = load_i64(arguments), load_i64(load_i64(arguments + 8)), load_i64(arguments + 16)
        positions, texts, caches = load_i64(arguments + 24), load_i64(arguments + 32), load_i64(arguments + 40)
        eps, q_norm = load_f32(load_i64(arguments + 48)), load_i64(arguments + 56)
        k_norm, biases = load_i64(arguments + 64), load_i64(arguments + 72)
        work = count * units
        for item in range(first_of(work, thread, threads), first_of(work, thread + 1, threads)):
            row, head = item // units, item % units
            element = query_size * min(head, heads) + dim * max(head - heads, 0)
            at, turn = qkv + 4 * (row_size * row + element), rope + 4 * rope_dim * row
            position, cache = load_i64(positions + 8 * row), caches + CACHE * load_i64(texts + 8 * row)
            cache_tiles = load_i64(cache + 16)
            if bias:
                for d in range(0, query_size if head < heads else dim, value_width):
                    simd.store(at + 4 * d, load_value(at + 4 * d) + load_value(biases + 4 * (element + d)))
            if head < heads + kv_heads:
                if qk_norm:
                    normalize(at, q_norm if head < heads else k_norm, at, eps)
                for i in range(0, half, width):
                    cos, sin = load(turn + 4 * i), load(turn + 4 * (half + i))
                    u, w = load(at + 4 * i), load(at + 4 * (half + i))
                    simd.store(at + 4 * i, u * cos - w * sin)
                    simd.store(at + 4 * (half + i), w * cos + u * sin)
            if head >= heads + kv_heads:
                if v_norm:
                    divide_by_rms(at, 0, at, eps)
                kv = head - heads - kv_heads
                to = load_i64(cache + 8) + 2 * dim * (kv * cache_tiles * TILE + position)
                for d in range(0, dim, value_width):
                    simd.store(to + 2 * d, simd.to_f16(load_value(at + 4 * d)))
            elif head >= heads:
                kv = head - heads
                place = (kv * cache_tiles + position // TILE) * dim * TILE + position % TILE
                to = load_i64(cache) + 2 * place
                for d in range(dim):
                    simd.store_f16(to + 2 * TILE * d, load_f32(at + 4 * d))

    key = f"append rows {heads} {kv_heads} {dim} {rope_dim} {qk_norm} {bias} {query_size} {v_norm}"
    return compile_kernel(append_rows, key)


def bind_append(kernel: Kernel, qkv, count, rope, positions, texts, caches, eps, norms: Sequence, bias) -> Step:
    """qkv: float32 [rows, heads * query_size + 2 kv_heads * dim]; rope: float32 [rows, rope_dim], cosines, then sines;
    positions, texts: int64 [rows]; caches: int64 [texts, 3], of each what `described` says; norms, bias: arrays, or
    0."""
    named = (qkv, count, rope, positions, texts, caches, eps, *norms, bias)
    return step(kernel, named, "append")


def compile_output_gate(heads: int, dim: int, row_size: int) -> Kernel:
    """attended = attended sigmoid(gate), the gates behind each query in rows of `row_size` elements."""
    load, splat, exp = simd.load("f32", LANES), simd.splat("f32", LANES), exponential(LANES)

    def gate_attended(arguments, sync, thread, threads):
        qkv, attended, count = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        work = count * heads
        one, minus = splat(np.float32(1.0)), splat(np.float32(-1.0))
        for item in range(first_of(work, thread, threads), first_of(work, thread + 1, threads)):
            row, head = item // heads, item % heads
            gate, at = qkv + 4 * (row_size * row + 2 * dim * head + dim), attended + 4 * dim * item
            for d in range(0, 4 * dim, 4 * LANES):
                simd.store(at + d, load(at + d) / (one + exp(load(gate + d) * minus)))

    return compile_kernel(gate_attended, f"output gate {heads} {dim} {row_size}")


def bind_output_gate(kernel: Kernel, qkv, attended, count) -> Step:
    """qkv: as of `bind_append`; attended: float32 [rows, heads * dim]."""
    return step(kernel, (qkv, attended, count), "attention")


def described(keys: np.ndarray, values: np.ndarray) -> tuple[int, int, int]:
    """A text's cache as rows find it: the addresses of keys and values as of `attention.cache`, tiles of positions. The
    arrays must be kept elsewhere."""
    return keys.ctypes.data, values.ctypes.data, keys.shape[1]


def compile_cap(cols: int, cap: float) -> Kernel:
    """x = cap tanh(x / cap), over rows of whole vectors."""
    load, capped = simd.load("f32", LANES), soft_cap(cap, LANES)

    def cap_rows(arguments, sync, thread, threads):
        x, size = load_i64(arguments), load_i64(load_i64(arguments + 8)) * cols // LANES
        for i in range(first_of(size, thread, threads), first_of(size, thread + 1, threads)):
            simd.store(x + 4 * LANES * i, capped(load(x + 4 * LANES * i)))

    return compile_kernel(cap_rows, f"cap rows {cols} {cap}")


def bind_cap(kernel: Kernel, x: np.ndarray, count: np.ndarray) -> Step:
    """x: float32 [rows, cols], cols a multiple of 16."""
    return step(kernel, (x, count), "cap")
