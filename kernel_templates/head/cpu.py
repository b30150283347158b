"""The head on the CPU: each thread normalizes and quantizes x for itself, then takes its share of the vocabulary."""

from kernel_templates.cpu import blocks, matrix, parameters, simd
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer, soft_cap
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply_share, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.head.problem import Head
from kernel_templates.matvec.cpu import pack

__all__ = ["bind", "compile", "pack", "scratch_bytes"]

LANES = 16  # of the loop that caps logits


def _activations(problem: Head, config) -> ActivationLayout:
    return blocks.activations(problem.format, problem.hidden, problem.activation, config["path"])


def scratch_bytes(problem: Head, config) -> int:
    return _activations(problem, config).bytes + 4 * problem.hidden


def compile(problem: Head, config, features) -> Kernel:
    layout = _activations(problem, config)
    quantize, normalize = quantizer(layout), normalizer(problem.hidden)
    per_thread, used = scratch_bytes(problem, config), layout.bytes
    capped, cap, load = bool(problem.softcap), soft_cap(problem.softcap or 1.0, LANES), simd.load("f32", LANES)

    def head(arguments, sync, thread, threads):
        a = arguments + matrix.BYTES
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        logits, scratch = load_i64(a + 24), load_i64(a + 32) + thread * per_thread
        normalize(x, norm, scratch + used, eps)
        quantize(scratch + used, scratch)
        multiply_share(arguments, thread, threads, scratch, logits, 0)
        if capped:
            tiles, lanes = tiles_of(arguments), lanes_of(arguments)
            first, last = first_of(tiles, thread, threads), first_of(tiles, thread + 1, threads)
            for row in range(first * lanes, last * lanes, LANES):
                simd.store(logits + 4 * row, cap(load(logits + 4 * row)))

    rows = blocks.compile_rows(parameters.shape(config, problem.format, problem.hidden), layout, features)
    key = f"head {layout} softcap={problem.softcap}" if capped else f"head {layout}"
    return compile_kernel(head, key).with_rows(rows)


def bind(problem: Head, config, kernel, packed, buffers) -> Step:
    named = (buffers[n] for n in ("x", "norm", "eps", "logits", "scratch"))
    return step(kernel, (*matrix.arguments(packed[0], kernel.rows[0]), *named), "head")
