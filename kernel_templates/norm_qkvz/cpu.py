"""A gated delta net's projections on the CPU: norm and quantization by each thread, then the row tiles of all four."""

from kernel_templates.cpu import blocks
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.stacked import Stack
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.norm_qkvz.problem import NormQkvz


def _stack(problem: NormQkvz, config) -> Stack:
    return Stack(problem.matrices, problem.activation, config["path"])


def scratch_bytes(problem: NormQkvz, config) -> int:
    return _stack(problem, config).scratch_bytes


def compile(problem: NormQkvz, config, features) -> Kernel:
    stack = _stack(problem, config)
    product, per_thread, words = stack.product(), stack.scratch_bytes, 8 * stack.words

    def norm_qkvz(arguments, sync, thread, threads):
        a = arguments + words
        x, norm, eps = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16))
        projected, scratch = load_i64(a + 24), load_i64(a + 32) + thread * per_thread
        product(arguments, x, norm, eps, scratch, projected, thread, threads)

    key = f"{blocks.key_of(problem, problem.activation, stack.path)} of {len(stack.groups)}"
    return compile_kernel(norm_qkvz, key).with_rows(*stack.compile_rows(config, features))


def pack(problem: NormQkvz, config, weights) -> tuple[Tiles, ...]:
    return _stack(problem, config).pack(config, weights)


def bind(problem: NormQkvz, config, kernel, packed, buffers) -> Step:
    named = (buffers[n] for n in ("x", "norm", "eps", "projected", "scratch"))
    return step(kernel, (*_stack(problem, config).bind(kernel, packed), *named), "norm_qkvz")
