"""A layer's first kernel on the CPU: norm and quantization by each thread, the row tiles of Q, K and V, a barrier, then
the heads: QK-norm, RoPE, and the float16 append to the cache."""

import math
from dataclasses import dataclass

import torch

from kernel_templates.attention.cache import TILE
from kernel_templates.cpu import blocks, knobs, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.prologue import first_of, planes_at
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier
from kernel_templates.norm_qkv_rope.problem import NormQkvRope


@dataclass(frozen=True)
class _Group:
    """Neighbouring matrices of one format, packed as one: their rows lie one behind the other in the output."""

    names: tuple[str, ...]
    rows: int
    format: str


def _groups(problem: NormQkvRope) -> tuple[_Group, ...]:
    groups: list[_Group] = []
    for name, rows, fmt in problem.parts:
        if groups and groups[-1].format == fmt:
            groups[-1] = _Group((*groups[-1].names, name), groups[-1].rows + rows, fmt)
        else:
            groups.append(_Group((name,), rows, fmt))
    return tuple(groups)


def _layouts(problem: NormQkvRope) -> tuple[ActivationLayout, ...]:
    """The kinds of activations the groups read: one or two."""
    kinds = dict.fromkeys(blocks.activation_of(g.format, problem.activation) for g in _groups(problem))
    return tuple(ActivationLayout(problem.hidden, kind) for kind in kinds)


def scratch_bytes(problem: NormQkvRope, config) -> int:
    return 4 * problem.hidden + sum(layout.bytes for layout in _layouts(problem))


def _projection(problem: NormQkvRope, config, features):
    """njit (arguments, tile, scratch) -> that tile of q, k, v, whichever group it falls in; and the number of tiles."""
    layouts, lanes = _layouts(problem), config["lanes"]
    offset, at = {}, 4 * problem.hidden
    for layout in layouts:
        offset[layout.kind] = at
        at += layout.bytes

    project, total = None, 0
    for number, group in reversed(list(enumerate(_groups(problem)))):
        kind = blocks.activation_of(group.format, problem.activation)
        dot = blocks.tile_dot(knobs.shape(config, group.format, problem.hidden), kind, features)
        count = tiles.tile_count(group.rows, lanes)
        project = _link(dot, count, 32 * number, offset[kind], project, (problem, config))
        total += count
    return project, total


def _link(dot, count, planes, x, otherwise, key):
    """One group; `planes`, `x`: byte offsets of its weights in the arguments, of its activations in the scratch."""

    @device_function(*key, planes)
    def here(arguments, tile, scratch):
        w0, w1, w2, w3 = planes_at(arguments + planes)
        return dot(w0, w1, w2, w3, tile, scratch + x)

    if otherwise is None:
        return here

    @device_function(*key, planes)
    def choose(arguments, tile, scratch):
        if tile < count:
            return here(arguments, tile, scratch)
        return otherwise(arguments, tile - count, scratch)

    return choose


def compile(problem: NormQkvRope, config, features) -> Kernel:
    dim, half, heads, kv_heads = problem.head_dim, problem.rope_dim // 2, problem.heads, problem.kv_heads
    hidden, lanes, qk_norm = problem.hidden, config["lanes"], bool(problem.qk_norm)
    layouts, room = _layouts(problem), scratch_bytes(problem, config)
    quantize, quantize_other = quantizer(layouts[0]), quantizer(layouts[-1])
    two_kinds, first_x, other_x = len(layouts) > 1, 4 * hidden, 4 * hidden + layouts[0].bytes
    project, count = _projection(problem, config, features)
    normalize, normalize_head = normalizer(hidden), normalizer(dim)
    width = math.gcd(half, 16)
    load = simd.load("f32", width)
    value_width = math.gcd(dim, 16)
    load_value = simd.load("f32", value_width)

    def norm_qkv_rope(arguments, sync, thread, threads):
        a = arguments + 96
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        q_norm, k_norm, rope = load_i64(a + 24), load_i64(a + 32), load_i64(a + 40)
        position, qkv = load_i64(load_i64(a + 48)), load_i64(a + 56)
        keys, values, cache_tiles = load_i64(a + 64), load_i64(a + 72), load_i64(a + 88)
        scratch = load_i64(a + 80) + thread * room

        normalize(x, norm, scratch, eps)
        quantize(scratch, scratch + first_x)
        if two_kinds:
            quantize_other(scratch, scratch + other_x)
        for tile in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            simd.store(qkv + 4 * lanes * tile, project(arguments, tile, scratch))
        barrier(sync, threads)

        units = heads + 2 * kv_heads
        for head in range(first_of(units, thread, threads), first_of(units, thread + 1, threads)):
            at = qkv + 4 * dim * head
            if head < heads + kv_heads:
                if qk_norm:
                    normalize_head(at, q_norm if head < heads else k_norm, at, eps)
                for i in range(0, half, width):
                    cos, sin = load(rope + 4 * i), load(rope + 4 * (half + i))
                    u, w = load(at + 4 * i), load(at + 4 * (half + i))
                    simd.store(at + 4 * i, u * cos - w * sin)
                    simd.store(at + 4 * (half + i), w * cos + u * sin)
            if head >= heads + kv_heads:
                kv = head - heads - kv_heads
                to = values + 2 * dim * (kv * cache_tiles * TILE + position)
                for d in range(0, dim, value_width):
                    simd.store(to + 2 * d, simd.to_f16(load_value(at + 4 * d)))
            elif head >= heads:
                kv = head - heads
                to = keys + 2 * ((kv * cache_tiles + position // TILE) * dim * TILE + position % TILE)
                for d in range(dim):
                    simd.store_f16(to + 2 * TILE * d, load_f32(at + 4 * d))

    return compile_kernel(norm_qkv_rope, f"{problem.key} {config.key}")


def pack(problem: NormQkvRope, config, weights) -> tuple[tiles.Tiles, ...]:
    return tuple(
        tiles.pack(torch.cat([weights[n].raw for n in g.names]), problem.hidden, g.format, config["lanes"])
        for g in _groups(problem)
    )


def bind(problem: NormQkvRope, config, kernel, packed, buffers) -> Step:
    matrices = [argument for p in packed for argument in p.arguments()]
    matrices += [0] * (3 * tiles.MAX_PLANES - len(matrices))
    names = ("x", "norm", "eps", "q_norm", "k_norm", "rope", "position", "qkv", "keys", "values", "scratch")
    cache_tiles = buffers["keys"].shape[1]
    return step(kernel, (*matrices, *(buffers[n] for n in names), cache_tiles), "norm_qkv_rope")
