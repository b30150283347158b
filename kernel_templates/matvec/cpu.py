"""y += W x on the CPU: each thread quantizes x for itself, then multiplies its share of the row tiles."""

from kernel_templates.cpu import blocks, knobs, simd, tiles
from kernel_templates.cpu.activations import ActivationLayout, quantizer
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.prologue import first_of, planes_at
from kernel_templates.cpu.simd import load_i64
from kernel_templates.matvec.problem import Matvec


def _activations(problem: Matvec) -> ActivationLayout:
    return ActivationLayout(problem.cols, blocks.activation_of(problem.format, problem.activation))


def scratch_bytes(problem: Matvec, config) -> int:
    return _activations(problem).bytes


def compile(problem: Matvec, config, features) -> Kernel:
    layout, lanes = _activations(problem), config["lanes"]
    quantize = quantizer(layout)
    dot = blocks.tile_dot(knobs.shape(config, problem.format, problem.cols), layout.kind, features)
    count, room = tiles.tile_count(problem.rows, lanes), layout.bytes
    load = simd.load("f32", lanes)

    def matvec(arguments, sync, thread, threads):
        w0, w1, w2, w3 = planes_at(arguments)
        out, x = load_i64(arguments + 40), load_i64(arguments + 48) + thread * room
        quantize(load_i64(arguments + 32), x)
        for tile in range(first_of(count, thread, threads), first_of(count, thread + 1, threads)):
            at = out + 4 * lanes * tile
            simd.store(at, load(at) + dot(w0, w1, w2, w3, tile, x))

    return compile_kernel(matvec, f"{problem.key} {config.key}")


def pack(problem: Matvec, config, weights) -> tuple[tiles.Tiles, ...]:
    w = weights["w"]
    return (tiles.pack(w.raw, w.cols, w.format, config["lanes"]),)


def bind(problem: Matvec, config, kernel, packed, buffers) -> Step:
    arguments = (*packed[0].arguments(), buffers["x"], buffers["out"], buffers["scratch"])
    return step(kernel, arguments, "matvec")
