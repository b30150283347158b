"""A layer's first kernel on the CPU: norm and quantization by each thread, the row tiles of Q, K and V, a barrier, then
the heads: bias, QK-norm, RoPE, and the float16 append to the cache."""

import math

from kernel_templates.attention.cache import TILE
from kernel_templates.cpu import blocks, simd
from kernel_templates.cpu.activations import normalizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.stacked import Stack
from kernel_templates.cpu.sync import barrier
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.norm_qkv_rope.problem import NormQkvRope


def _stack(problem: NormQkvRope, config) -> Stack:
    return Stack(problem.matrices, problem.activation, config["path"])


def scratch_bytes(problem: NormQkvRope, config) -> int:
    return _stack(problem, config).scratch_bytes


def compile(problem: NormQkvRope, config, features) -> Kernel:
    dim, half, heads, kv_heads = problem.head_dim, problem.rope_dim // 2, problem.heads, problem.kv_heads
    qk_norm, qkv_bias, stack = problem.qk_norm == 1, problem.qkv_bias == 1, _stack(problem, config)
    query_size = problem.query_size
    product, per_thread, words = stack.product(), stack.scratch_bytes, 8 * stack.words
    normalize_head = normalizer(dim)
    v_norm, divide_by_rms = problem.v_norm == 1, normalizer(dim, weighted=False)
    width = math.gcd(half, 16)
    load = simd.load("f32", width)
    value_width = math.gcd(dim, 16)
    load_value = simd.load("f32", value_width)

    def norm_qkv_rope(arguments, sync, thread, threads):
        a = arguments + words
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        q_norm, k_norm, rope = load_i64(a + 24), load_i64(a + 32), load_i64(a + 40)
        position, qkv = load_i64(load_i64(a + 48)), load_i64(a + 56)
        keys, values, cache_tiles = load_i64(a + 64), load_i64(a + 72), load_i64(a + 88)
        scratch, bias = load_i64(a + 80) + thread * per_thread, load_i64(a + 96)

        product(arguments, x, norm, eps, scratch, qkv, thread, threads)
        barrier(sync, threads)

        units = heads + 2 * kv_heads
        for head in range(first_of(units, thread, threads), first_of(units, thread + 1, threads)):
            element = query_size * min(head, heads) + dim * max(head - heads, 0)
            at = qkv + 4 * element
            if qkv_bias:
                for d in range(0, query_size if head < heads else dim, value_width):
                    simd.store(at + 4 * d, load_value(at + 4 * d) + load_value(bias + 4 * (element + d)))
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

    key = f"{blocks.key_of(problem, problem.activation, stack.path)} of {len(stack.groups)}"
    return compile_kernel(norm_qkv_rope, key).with_rows(*stack.compile_rows(config, features))


def pack(problem: NormQkvRope, config, weights) -> tuple[Tiles, ...]:
    return _stack(problem, config).pack(config, weights)


def bind(problem: NormQkvRope, config, kernel, packed, buffers) -> Step:
    first, rest = ("x", "norm", "eps"), ("rope", "position", "qkv", "keys", "values", "scratch")
    # Of keys there is no norm where there are none.
    norms = (buffers["q_norm"], buffers["k_norm"] if problem.kv_heads else 0) if problem.qk_norm else (0, 0)
    named = (*(buffers[n] for n in first), *norms, *(buffers[n] for n in rest))
    bias = buffers["bias"] if problem.qkv_bias else 0
    matrices = _stack(problem, config).bind(kernel, packed)
    return step(kernel, (*matrices, *named, buffers["keys"].shape[1], bias), "norm_qkv_rope")
