"""The gate of a layer's input on the CPU, one kernel: the gate's product, a barrier, then the projection, whose norm
the thread that is ready last adds, as in `ffn`."""

from kernel_templates.cpu import blocks, matrix, parameters, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, gate_function, quantizer, residual_normalizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply, multiply_share, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier, comes_last
from kernel_templates.input_gate.problem import InputGate

LANES = 16  # of the loop over the gated products


def _layouts(problem: InputGate, config) -> tuple[ActivationLayout, ...]:
    """What the gate and the projection read."""
    return tuple(blocks.activations(m.format, m.cols, problem.activation, config["path"]) for m in problem.matrices)


def _place(problem: InputGate, config) -> int:
    """Byte offset of the projection's rows in a thread's scratch, behind the activations of either product."""
    return max(layout.bytes for layout in _layouts(problem, config))


def scratch_bytes(problem: InputGate, config) -> int:
    return _place(problem, config) + 4 * tiles.padded(problem.hidden, parameters.MAX_LANES)


def compile(problem: InputGate, config, features) -> Kernel:
    gate_x, proj_x = _layouts(problem, config)
    quantize_gate, quantize_proj = quantizer(gate_x), quantizer(proj_x)
    add_normed = residual_normalizer(problem.hidden, bool(problem.out_scale))
    place, per_thread, size = _place(problem, config), scratch_bytes(problem, config), problem.size
    load, gelu = simd.load("f32", LANES), gate_function("gelu", LANES)

    def input_gate(arguments, sync, thread, threads):
        gate, proj, a = arguments, arguments + matrix.BYTES, arguments + 2 * matrix.BYTES
        x, given, gated = load_i64(a), load_i64(a + 8), load_i64(a + 16)
        scratch = load_i64(a + 24) + thread * per_thread
        weight, eps, out_scale = load_i64(a + 32), load_f32(load_i64(a + 40)), load_i64(a + 48)

        quantize_gate(x, scratch)
        first, last = first_of(tiles_of(gate), thread, threads), first_of(tiles_of(gate), thread + 1, threads)
        multiply(gate, first, last, scratch, gated, 0)
        for row in range(first * lanes_of(gate), min(last * lanes_of(gate), size), LANES):
            simd.store(gated + 4 * row, gelu(load(gated + 4 * row)) * load(given + 4 * row))
        barrier(sync, threads)
        quantize_proj(gated, scratch)
        y = load_i64(a + 24) + place
        multiply_share(proj, thread, threads, scratch, y, 0)
        if comes_last(sync, threads):
            add_normed(y, weight, x, eps, out_scale)

    rows = (
        blocks.compile_rows(parameters.shape(config, m.format, m.cols, f"{m.name}_"), layout, features)
        for m, layout in zip(problem.matrices, (gate_x, proj_x), strict=True)
    )
    key = f"input gate {gate_x} {proj_x} {problem.out_scale}"  # the layouts have both sizes
    return compile_kernel(input_gate, key).with_rows(*rows)


def pack(problem: InputGate, config, weights) -> tuple[tiles.Tiles, ...]:
    given = ((weights[m.name], config[f"{m.name}_lanes"]) for m in problem.matrices)
    return tuple(tiles.pack(w.raw, w.cols, w.format, lanes) for w, lanes in given)


def bind(problem: InputGate, config, kernel, packed, buffers) -> Step:
    matrices = [
        word for p, rows in zip(packed, kernel.rows, strict=True) for word in matrix.arguments(p, rows)
    ]  # fmt: skip
    named = (buffers[name] for name in ("x", "input", "gated", "scratch", "post_norm", "eps"))
    scale = buffers["out_scale"] if problem.out_scale else 0
    return step(kernel, (*matrices, *named, scale), "input_gate")
