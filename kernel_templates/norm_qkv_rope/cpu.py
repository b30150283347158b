"""A layer's first kernel on the CPU: norm and quantization by each thread, the row tiles of Q, K and V, a barrier, then
the heads: bias, QK-norm, RoPE, and the float16 append to the cache."""

import math
from dataclasses import dataclass

from kernel_templates.attention.cache import TILE
from kernel_templates.cpu import blocks, matrix, parameters, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier
from kernel_templates.lazy import torch
from kernel_templates.norm_qkv_rope.problem import NormQkvRope


@dataclass(frozen=True)
class _Group:
    """Neighbouring matrices of one format, packed as one: their rows lie one behind the other in the output."""

    names: tuple[str, ...]
    rows: int
    format: str


def _groups(problem: NormQkvRope) -> tuple[_Group, ...]:
    groups: list[_Group] = []
    for m in problem.matrices:
        if groups and groups[-1].format == m.format:
            groups[-1] = _Group((*groups[-1].names, m.name), groups[-1].rows + m.rows, m.format)
        else:
            groups.append(_Group((m.name,), m.rows, m.format))
    return tuple(groups)


def _layouts(problem: NormQkvRope) -> tuple[ActivationLayout, ...]:
    """The kinds of activations the groups read: one or two."""
    kinds = dict.fromkeys(blocks.activation_of(g.format, problem.activation) for g in _groups(problem))
    return tuple(ActivationLayout(problem.hidden, kind) for kind in kinds)


def scratch_bytes(problem: NormQkvRope, config) -> int:
    return 4 * problem.hidden + sum(layout.bytes for layout in _layouts(problem))


def _place(problem: NormQkvRope, group: _Group) -> int:
    """Byte offset of the activations that a group reads, in a thread's scratch: behind the normed x."""
    first = _layouts(problem)[0]
    kind = blocks.activation_of(group.format, problem.activation)
    return 4 * problem.hidden + (0 if kind == first.kind else first.bytes)


def compile(problem: NormQkvRope, config, features) -> Kernel:
    dim, half, heads, kv_heads = problem.head_dim, problem.rope_dim // 2, problem.heads, problem.kv_heads
    hidden, qk_norm, qkv_bias, groups = problem.hidden, problem.qk_norm == 1, problem.qkv_bias == 1, _groups(problem)
    v_norm, divide_by_rms = problem.v_norm == 1, normalizer(dim, weighted=False)
    layouts, per_thread, count = _layouts(problem), scratch_bytes(problem, config), len(groups)
    quantize, quantize_other = quantizer(layouts[0]), quantizer(layouts[-1])
    two_kinds, first_x, other_x = len(layouts) > 1, 4 * hidden, 4 * hidden + layouts[0].bytes
    normalize, normalize_head = normalizer(hidden), normalizer(dim)
    width = math.gcd(half, 16)
    load = simd.load("f32", width)
    value_width = math.gcd(dim, 16)
    load_value = simd.load("f32", value_width)

    def norm_qkv_rope(arguments, sync, thread, threads):
        a = arguments + 3 * matrix.BYTES
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        q_norm, k_norm, rope = load_i64(a + 24), load_i64(a + 32), load_i64(a + 40)
        position, qkv = load_i64(load_i64(a + 48)), load_i64(a + 56)
        keys, values, cache_tiles = load_i64(a + 64), load_i64(a + 72), load_i64(a + 88)
        scratch, bias = load_i64(a + 80) + thread * per_thread, load_i64(a + 96)

        normalize(x, norm, scratch, eps)
        quantize(scratch, scratch + first_x)
        if two_kinds:
            quantize_other(scratch, scratch + other_x)
        total = 0
        for g in range(count):
            total += tiles_of(arguments + matrix.BYTES * g)
        first, last, before = first_of(total, thread, threads), first_of(total, thread + 1, threads), 0
        for g in range(count):  # the thread's tiles may begin in one group and end in another
            group = arguments + matrix.BYTES * g
            low, high = max(first - before, 0), min(last - before, tiles_of(group))
            if low < high:
                multiply(group, low, high, scratch, qkv + 4 * lanes_of(group) * before, 0)
            before += tiles_of(group)
        barrier(sync, threads)

        units = heads + 2 * kv_heads
        for head in range(first_of(units, thread, threads), first_of(units, thread + 1, threads)):
            at = qkv + 4 * dim * head
            if qkv_bias:
                for d in range(0, dim, value_width):
                    simd.store(at + 4 * d, load_value(at + 4 * d) + load_value(bias + 4 * (dim * head + d)))
            if head < heads + kv_heads:
                if qk_norm:
                    normalize_head(at, q_norm if head < heads else k_norm, at, eps)
                for i in range(0, half, width):
                    cos, sin = load(rope + 4 * i), load(rope + 4 * (half + i))
                    u, w = load(at + 4 * i), load(at + 4 * (half + i))
                    simd.store(at + 4 * i, u * cos - w * sin)
                    simd.store(at + 4 * (half + i), w * cos + u * sin)
            if head >= heads + kv_heads:
                if v_norm:
                    divide_by_rms(at, 0, at, eps)
                kv = head - heads - kv_heads
                to = values + 2 * dim * (kv * cache_tiles * TILE + position)
                for d in range(0, dim, value_width):
                    simd.store(to + 2 * d, simd.to_f16(load_value(at + 4 * d)))
            elif head >= heads:
                kv = head - heads
                to = keys + 2 * ((kv * cache_tiles + position // TILE) * dim * TILE + position % TILE)
                for d in range(dim):
                    simd.store_f16(to + 2 * TILE * d, load_f32(at + 4 * d))

    rows = (
        blocks.compile_rows(
            parameters.shape(config, g.format, hidden),
            blocks.activation_of(g.format, problem.activation),
            features,
        )
        for g in groups
    )
    return compile_kernel(norm_qkv_rope, f"{problem.key} groups={count}").with_rows(*rows)


def pack(problem: NormQkvRope, config, weights) -> tuple[tiles.Tiles, ...]:
    return tuple(
        tiles.pack(torch.cat([weights[n].raw for n in g.names]), problem.hidden, g.format, config["lanes"])
        for g in _groups(problem)
    )


def bind(problem: NormQkvRope, config, kernel, packed, buffers) -> Step:
    matrices = [
        word
        for p, rows, group in zip(packed, kernel.rows, _groups(problem), strict=True)
        for word in matrix.arguments(p, rows, _place(problem, group))
    ]
    matrices += [0] * (3 * matrix.BYTES // 8 - len(matrices))
    first, rest = ("x", "norm", "eps"), ("rope", "position", "qkv", "keys", "values", "scratch")
    # Of keys there is no norm where there are none.
    norms = (buffers["q_norm"], buffers["k_norm"] if problem.kv_heads else 0) if problem.qk_norm else (0, 0)
    named = (*(buffers[n] for n in first), *norms, *(buffers[n] for n in rest))
    bias = buffers["bias"] if problem.qkv_bias else 0
    return step(kernel, (*matrices, *named, buffers["keys"].shape[1], bias), "norm_qkv_rope")
