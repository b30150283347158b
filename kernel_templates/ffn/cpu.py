"""The feed-forward network on the CPU, one kernel: gate and up, a barrier, then down and the residual.

A thread computes the same rows of gate and of up, so both are in its own cache when they meet. With a post norm, down
writes to the first thread's scratch, and the thread that is ready last adds it all, without another barrier.
"""

from kernel_templates.cpu import blocks, matrix, parameters, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, gate_function, normalizer, quantizer, residual_normalizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply, multiply_share, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier, comes_last
from kernel_templates.ffn.problem import Ffn

LANES = 16  # of the loop over the gated products


def _layouts(problem: Ffn, config) -> tuple[ActivationLayout, ActivationLayout, ActivationLayout]:
    """What gate, up and down read. Gate and up may differ in kind when their formats do."""
    return tuple(
        blocks.activations(fmt, cols, problem.activation, config["path"])
        for cols, fmt in (
            (problem.hidden, problem.gate_format),
            (problem.hidden, problem.up_format),
            (problem.ffn, problem.down_format),
        )
    )  # type: ignore[return-value]


def _places(problem: Ffn, config) -> tuple[int, int, int, int]:
    """Byte offsets in a thread's scratch: activations of gate and of up (the same if they read the same kind), the
    normed x, the rows of up; behind them, its size. Down's activations, and its rows if they are normed, come when the
    others are no longer needed."""
    gate, up, down = _layouts(problem, config)
    up_x = 0 if up == gate else gate.bytes
    normed = up_x + up.bytes
    raised = max(normed + 4 * problem.hidden, down.bytes)
    rows = max(problem.ffn, problem.hidden) if problem.post_norm else problem.ffn
    return up_x, normed, raised, raised + 4 * tiles.padded(rows, parameters.MAX_LANES)


def scratch_bytes(problem: Ffn, config) -> int:
    return _places(problem, config)[-1]


def compile(problem: Ffn, config, features) -> Kernel:
    gate_x, up_x, down_x = _layouts(problem, config)
    quantize_gate, quantize_up, quantize_down = quantizer(gate_x), quantizer(up_x), quantizer(down_x)
    normalize, add_normed = normalizer(problem.hidden), residual_normalizer(problem.hidden, bool(problem.out_scale))
    (up_place, normed, raised, per_thread), same = _places(problem, config), gate_x == up_x
    load, gated_by = simd.load("f32", LANES), gate_function(problem.gate_function, LANES)
    post_norm = bool(problem.post_norm)

    def ffn(arguments, sync, thread, threads):
        gate, up, down = arguments, arguments + matrix.BYTES, arguments + 2 * matrix.BYTES
        a = arguments + 3 * matrix.BYTES
        x, norm, eps, gated = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16)), load_i64(a + 24)
        scratch = load_i64(a + 32) + thread * per_thread

        normalize(x, norm, scratch + normed, eps)
        quantize_gate(scratch + normed, scratch)
        if not same:
            quantize_up(scratch + normed, scratch + up_place)
        first, last = first_of(tiles_of(gate), thread, threads), first_of(tiles_of(gate), thread + 1, threads)
        multiply(gate, first, last, scratch, gated, 0)
        multiply(up, first, last, scratch, scratch + raised, 0)
        for row in range(first * lanes_of(gate), last * lanes_of(gate), LANES):
            g, u = load(gated + 4 * row), load(scratch + raised + 4 * row)
            simd.store(gated + 4 * row, gated_by(g) * u)
        barrier(sync, threads)
        quantize_down(gated, scratch)
        if post_norm:
            y, weight, out_scale = load_i64(a + 32) + raised, load_i64(a + 40), load_i64(a + 48)
            multiply_share(down, thread, threads, scratch, y, 0)
            if comes_last(sync, threads):
                add_normed(y, weight, x, eps, out_scale)
        else:
            multiply_share(down, thread, threads, scratch, x, 1)

    rows = (
        blocks.compile_rows(parameters.shape(config, fmt, layout.cols, part), layout, features)
        for fmt, layout, part in (
            (problem.gate_format, gate_x, "gate_up_"),
            (problem.up_format, up_x, "gate_up_"),
            (problem.down_format, down_x, "down_"),
        )
    )
    key = f"ffn {gate_x} {up_x} {down_x} {problem.gate_function} post_norm={problem.post_norm} {problem.out_scale}"
    return compile_kernel(ffn, key).with_rows(*rows)


def pack(problem: Ffn, config, weights) -> tuple[tiles.Tiles, ...]:
    return tuple(
        tiles.pack(weights[name].raw, weights[name].cols, weights[name].format, config[part])
        for name, part in (("gate", "gate_up_lanes"), ("up", "gate_up_lanes"), ("down", "down_lanes"))
    )


def bind(problem: Ffn, config, kernel, packed, buffers) -> Step:
    places = (0, _places(problem, config)[0], 0)
    matrices = [
        word
        for p, rows, place in zip(packed, kernel.rows, places, strict=True)
        for word in matrix.arguments(p, rows, place)
    ]
    names = ("x", "norm", "eps", "gated", "scratch", *(("post_norm",) if problem.post_norm else ()))
    named = (buffers[n] for n in names)
    scale = buffers["out_scale"] if problem.out_scale else 0
    return step(kernel, (*matrices, *named, scale), "ffn")
