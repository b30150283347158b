"""A token's inputs to the layers on the CPU: each thread's share of the product, a barrier, then layers dealt out."""

from kernel_templates.cpu import blocks, matrix, parameters
from kernel_templates.cpu.activations import ActivationLayout, input_mixer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, multiply_share
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import barrier
from kernel_templates.matvec.cpu import pack
from kernel_templates.per_layer_inputs.problem import PerLayerInputs

__all__ = ["bind", "compile", "pack", "scratch_bytes"]


def _activations(problem: PerLayerInputs, config) -> ActivationLayout:
    return blocks.activations(problem.format, problem.hidden, problem.activation, config["path"])


def scratch_bytes(problem: PerLayerInputs, config) -> int:
    return _activations(problem, config).bytes


def compile(problem: PerLayerInputs, config, features) -> Kernel:
    layout, per_thread = _activations(problem, config), scratch_bytes(problem, config)
    quantize, mix = quantizer(layout), input_mixer(problem.hidden, problem.size)
    layers, size = problem.layers, problem.size

    def per_layer_inputs(arguments, sync, thread, threads):
        a = arguments + matrix.BYTES
        x, inputs, projected, norm = load_i64(a), load_i64(a + 8), load_i64(a + 16), load_i64(a + 24)
        eps, scratch = load_f32(load_i64(a + 32)), load_i64(a + 40) + thread * per_thread
        quantize(x, scratch)
        multiply_share(arguments, thread, threads, scratch, projected, 0)
        barrier(sync, threads)
        for layer in range(first_of(layers, thread, threads), first_of(layers, thread + 1, threads)):
            mix(projected + 4 * size * layer, norm, inputs + 4 * size * layer, eps)

    rows = blocks.compile_rows(parameters.shape(config, problem.format, problem.hidden), layout, features)
    return compile_kernel(per_layer_inputs, f"per-layer inputs {layout} {layers} {size}").with_rows(rows)


def bind(problem: PerLayerInputs, config, kernel, packed, buffers) -> Step:
    named = (buffers[name] for name in ("x", "inputs", "projected", "norm", "eps", "scratch"))
    return step(kernel, (*matrix.arguments(packed[0], kernel.rows[0]), *named), "per_layer_inputs")
