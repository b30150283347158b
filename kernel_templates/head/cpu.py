"""The head on the CPU: each thread normalizes and quantizes x for itself, then takes its share of the vocabulary."""

from kernel_templates.cpu import blocks, knobs, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, normalizer, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.prologue import first_of, planes_at
from kernel_templates.cpu.simd import load_f32, load_i64
from kernel_templates.head.problem import Head


def _activations(problem: Head) -> ActivationLayout:
    return ActivationLayout(problem.hidden, blocks.activation_of(problem.format, problem.activation))


def scratch_bytes(problem: Head, config) -> int:
    return _activations(problem).bytes + 4 * problem.hidden


def compile(problem: Head, config, features) -> Kernel:
    layout, lanes = _activations(problem), config["lanes"]
    quantize, normalize = quantizer(layout), normalizer(problem.hidden)
    dot = blocks.tile_dot(knobs.shape(config, problem.format, problem.hidden), layout.kind, features)
    count, room, used = tiles.tile_count(problem.vocab, lanes), scratch_bytes(problem, config), layout.bytes

    def head(arguments, sync, thread, threads):
        w0, w1, w2, w3 = planes_at(arguments)
        logits, x = load_i64(arguments + 56), load_i64(arguments + 64) + thread * room
        normed = x + used
        normalize(load_i64(arguments + 32), load_i64(arguments + 40), normed, load_f32(load_i64(arguments + 48)))
        quantize(normed, x)
        for tile in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            simd.store(logits + 4 * lanes * tile, dot(w0, w1, w2, w3, tile, x))

    return compile_kernel(head, f"{problem.key} {config.key}")


def pack(problem: Head, config, weights) -> tuple[tiles.Tiles, ...]:
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, config["lanes"]),)


def bind(problem: Head, config, kernel, packed, buffers) -> Step:
    names = ("x", "norm", "eps", "logits", "scratch")
    return step(kernel, (*packed[0].arguments(), *(buffers[n] for n in names)), "head")
