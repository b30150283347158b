"""The feed-forward network on the CPU, one kernel: gate and up with SiLU, a barrier, then down and the residual.

A thread computes the same rows of gate and up, so the gated product never leaves its registers before it is whole.
"""

import numpy as np

from kernel_templates.cpu import blocks, knobs, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, exponential, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.prologue import first_of, planes_at
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier
from kernel_templates.ffn.problem import Ffn


def _layouts(problem: Ffn) -> tuple[ActivationLayout, ActivationLayout, ActivationLayout]:
    """What gate, up and down read. Gate and up may differ in kind when their formats do."""
    return tuple(
        ActivationLayout(cols, blocks.activation_of(fmt, problem.activation))
        for cols, fmt in (
            (problem.hidden, problem.gate_format),
            (problem.hidden, problem.up_format),
            (problem.ffn, problem.down_format),
        )
    )  # type: ignore[return-value]


def scratch_bytes(problem: Ffn, config) -> int:
    gate, up, down = _layouts(problem)
    return max(gate.bytes + up.bytes + 4 * problem.hidden, down.bytes)


def compile(problem: Ffn, config, features) -> Kernel:
    gate_x, up_x, down_x = _layouts(problem)
    wide, tall = config["gate_up_lanes"], config["down_lanes"]
    gate = blocks.tile_dot(knobs.shape(config, problem.gate_format, problem.hidden, "gate_up_"), gate_x.kind, features)
    up = blocks.tile_dot(knobs.shape(config, problem.up_format, problem.hidden, "gate_up_"), up_x.kind, features)
    down = blocks.tile_dot(knobs.shape(config, problem.down_format, problem.ffn, "down_"), down_x.kind, features)
    quantize_gate, quantize_up, quantize_down = quantizer(gate_x), quantizer(up_x), quantizer(down_x)
    normalize, exp = normalizer(problem.hidden), exponential(wide)
    wide_count, tall_count = tiles.tile_count(problem.ffn, wide), tiles.tile_count(problem.hidden, tall)
    room, same = scratch_bytes(problem, config), gate_x.kind == up_x.kind
    up_offset, normed_offset = gate_x.bytes, gate_x.bytes + up_x.bytes
    splat, load = simd.splat("f32", wide), simd.load("f32", tall)

    def ffn(arguments, sync, thread, threads):
        g0, g1, g2, g3 = planes_at(arguments)
        u0, u1, u2, u3 = planes_at(arguments + 32)
        d0, d1, d2, d3 = planes_at(arguments + 64)
        a = arguments + 96
        x, norm, eps, gated = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16)), load_i64(a + 24)
        scratch = load_i64(a + 32) + thread * room

        normed, x_gate, x_up = scratch + normed_offset, scratch, scratch
        normalize(x, norm, normed, eps)
        quantize_gate(normed, x_gate)
        if not same:
            x_up = scratch + up_offset
            quantize_up(normed, x_up)
        one, minus = splat(np.float32(1.0)), splat(np.float32(-1.0))
        for tile in range(first_of(wide_count, thread, threads), first_of(wide_count, thread + 1, threads)):
            g = gate(g0, g1, g2, g3, tile, x_gate)
            u = up(u0, u1, u2, u3, tile, x_up)
            simd.store(gated + 4 * wide * tile, g / (one + exp(g * minus)) * u)
        barrier(sync, threads)
        quantize_down(gated, scratch)
        for tile in range(first_of(tall_count, thread, threads), first_of(tall_count, thread + 1, threads)):
            at = x + 4 * tall * tile
            simd.store(at, load(at) + down(d0, d1, d2, d3, tile, scratch))

    return compile_kernel(ffn, f"{problem.key} {config.key}")


def pack(problem: Ffn, config, weights) -> tuple[tiles.Tiles, ...]:
    return tuple(
        tiles.pack(weights[name].raw, weights[name].cols, weights[name].format, config[part])
        for name, part in (("gate", "gate_up_lanes"), ("up", "gate_up_lanes"), ("down", "down_lanes"))
    )


def bind(problem: Ffn, config, kernel, packed, buffers) -> Step:
    matrices = [argument for p in packed for argument in p.arguments()]
    names = ("x", "norm", "eps", "gated", "scratch")
    return step(kernel, (*matrices, *(buffers[n] for n in names)), "ffn")
