"""y += W x on the CPU: each thread quantizes x for itself, then multiplies its share of the row tiles."""

from kernel_templates.cpu import blocks, matrix, parameters, tiles
from kernel_templates.cpu.activations import ActivationLayout, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import multiply_share
from kernel_templates.cpu.simd import load_i64
from kernel_templates.matvec.problem import Matvec
from kernel_templates.problem import Problem


def _activations(problem: Matvec) -> ActivationLayout:
    return ActivationLayout(problem.cols, blocks.activation_of(problem.format, problem.activation))


def scratch_bytes(problem: Matvec, config) -> int:
    return _activations(problem).bytes


def compile(problem: Matvec, config, features) -> Kernel:
    layout = _activations(problem)
    quantize, per_thread = quantizer(layout), layout.bytes

    def matvec(arguments, sync, thread, threads):
        a = arguments + matrix.BYTES
        x, out, scratch = load_i64(a), load_i64(a + 8), load_i64(a + 16) + thread * per_thread
        quantize(x, scratch)
        multiply_share(arguments, thread, threads, scratch, out, 1)

    rows = blocks.compile_rows(parameters.shape(config, problem.format, problem.cols), layout.kind, features)
    return compile_kernel(matvec, f"matvec {layout}").with_rows(rows)


def pack(problem: Problem, config, weights) -> tuple[tiles.Tiles, ...]:
    """For any problem of one matrix "w"."""
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, config["lanes"]),)


def bind(problem: Matvec, config, kernel, packed, buffers) -> Step:
    named = (buffers[n] for n in ("x", "out", "scratch"))
    return step(kernel, (*matrix.arguments(packed[0], kernel.rows[0]), *named), "matvec")
