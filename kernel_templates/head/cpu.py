"""The head on the CPU: each thread normalizes and quantizes x for itself, then takes its share of the vocabulary."""

from kernel_templates.cpu import blocks, matrix, parameters
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import multiply_share
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.head.problem import Head
from kernel_templates.matvec.cpu import pack

__all__ = ["bind", "compile", "pack", "scratch_bytes"]


def _activations(problem: Head) -> ActivationLayout:
    return ActivationLayout(problem.hidden, blocks.activation_of(problem.format, problem.activation))


def scratch_bytes(problem: Head, config) -> int:
    return _activations(problem).bytes + 4 * problem.hidden


def compile(problem: Head, config, features) -> Kernel:
    layout = _activations(problem)
    quantize, normalize = quantizer(layout), normalizer(problem.hidden)
    per_thread, used = scratch_bytes(problem, config), layout.bytes

    def head(arguments, sync, thread, threads):
        a = arguments + matrix.BYTES
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        logits, scratch = load_i64(a + 24), load_i64(a + 32) + thread * per_thread
        normalize(x, norm, scratch + used, eps)
        quantize(scratch + used, scratch)
        multiply_share(arguments, thread, threads, scratch, logits, 0)

    rows = blocks.compile_rows(parameters.shape(config, problem.format, problem.hidden), layout.kind, features)
    return compile_kernel(head, f"head {layout}").with_rows(rows)


def bind(problem: Head, config, kernel, packed, buffers) -> Step:
    named = (buffers[n] for n in ("x", "norm", "eps", "logits", "scratch"))
    return step(kernel, (*matrix.arguments(packed[0], kernel.rows[0]), *named), "head")
