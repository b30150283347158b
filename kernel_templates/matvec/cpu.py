"""y += W x on the CPU: each thread quantizes x for itself, then multiplies its share of the row tiles.

With a post norm the product goes to the first thread's scratch instead, and the thread that is ready last adds it all:
that takes less time than a barrier, after which each could add its share. A bias goes ahead of the product, to which it
is added.
"""

from kernel_templates.cpu import blocks, matrix, parameters, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, quantizer, residual_normalizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply_share, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.cpu.sync import comes_last
from kernel_templates.matvec.problem import Matvec
from kernel_templates.problem import Problem

LANES = 16
"""Rows at a time, which divide a tile's."""


def _activations(problem: Matvec, config) -> ActivationLayout:
    return blocks.activations(problem.format, problem.cols, problem.activation, config["path"])


def scratch_bytes(problem: Matvec, config) -> int:
    product = 4 * tiles.padded(problem.rows, parameters.MAX_LANES) if problem.post_norm else 0
    return _activations(problem, config).bytes + product


def compile(problem: Matvec, config, features) -> Kernel:
    layout = _activations(problem, config)
    quantize, per_thread = quantizer(layout), scratch_bytes(problem, config)
    has_bias, load = bool(problem.bias), simd.load("f32", LANES)
    post_norm, product, add_normed = bool(problem.post_norm), layout.bytes, residual_normalizer(problem.rows)

    def matvec(arguments, sync, thread, threads):
        a = arguments + matrix.BYTES
        x, out, scratch = load_i64(a), load_i64(a + 8), load_i64(a + 16) + thread * per_thread
        y = load_i64(a + 16) + product if post_norm else out
        if has_bias:
            bias, count, lanes = load_i64(a + 40), tiles_of(arguments), 4 * lanes_of(arguments)
            first, last = first_of(count, thread, threads) * lanes, first_of(count, thread + 1, threads) * lanes
            for i in range(first, last, 4 * LANES):
                simd.store(y + i, load(bias + i) if post_norm else load(y + i) + load(bias + i))
        quantize(x, scratch)
        if post_norm:
            norm, eps = load_i64(a + 24), load_f32(load_i64(a + 32))
            multiply_share(arguments, thread, threads, scratch, y, 1 if has_bias else 0)
            if comes_last(sync, threads):
                add_normed(y, norm, out, eps, 0)
        else:
            multiply_share(arguments, thread, threads, scratch, y, 1)

    rows = blocks.compile_rows(parameters.shape(config, problem.format, problem.cols), layout, features)
    key = f"matvec {layout}" + f" post norm of {problem.rows}" * post_norm + " bias" * has_bias
    return compile_kernel(matvec, key).with_rows(rows)


def pack(problem: Problem, config, weights) -> tuple[tiles.Tiles, ...]:
    """For any problem of one matrix "w"."""
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, config["lanes"]),)


def bind(problem: Matvec, config, kernel, packed, buffers) -> Step:
    named = [buffers[n] for n in ("x", "out", "scratch")]
    named += [buffers[n] if problem.post_norm else 0 for n in ("post_norm", "eps")]
    named.append(buffers["bias"] if problem.bias else 0)
    return step(kernel, (*matrix.arguments(packed[0], kernel.rows[0]), *named), "matvec")
