"""A mixture of experts on the CPU, one kernel: the router, a barrier, gate and up of the chosen experts, another
barrier, then down of them and the residual.

Every thread chooses for itself, from the same logits. The threads share the rows of all chosen experts, and read of an
expert's matrices what a token needs: packed, an expert is whole tiles behind those of the expert before. Weights of
experts are multiplied into the scales of what down reads. Logits, and what a post norm norms, lie in the first
thread's scratch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kernel_templates.cpu import blocks, matrix, parameters, simd, tiles
from kernel_templates.cpu.activations import (
    ActivationLayout,
    exponential,
    gating,
    normalizer,
    normed_adder,
    quantizer,
    residual_normalizer,
    weigher,
)
from kernel_templates.cpu.compile import Kernel, compile_kernel, device_function
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of, lanes_of, multiply, multiply_share, tiles_of
from kernel_templates.cpu.simd import load_f32, load_i32, load_i64, store_f32, store_i32
from kernel_templates.cpu.sync import barrier, comes_last
from kernel_templates.lazy import torch
from kernel_templates.moe.cpu_choose import chooser, padded
from kernel_templates.moe.problem import BESIDE, Moe
from kernel_templates.moe.reference import BIASES
from kernel_templates.problem import Matrix

LANES = 16  # of the loops over rows
PARTS = {
    "router": "router_", "gate": "gate_up_", "up": "gate_up_", "down": "down_",
    "shared_gate": "gate_up_", "shared_up": "gate_up_", "shared_down": "down_",
}  # fmt: skip
"""The parameters of each matrix that is packed; the shared expert's router is below the others'."""


def _packed(problem: Moe) -> list[Matrix]:
    return [m for m in problem.matrices if m.name in PARTS]


def _norm(problem: Moe, name: str) -> str:
    """What x is multiplied with where a matrix of `hidden` columns reads it."""
    if not problem.beside:
        return "norm"
    return {"router": "router_norm", "gate": "norm", "up": "norm"}.get(name, "shared_norm")


def _buffers(problem: Moe) -> list[str]:
    """The names of a kernel's arguments behind its matrices."""
    names = ["x", "norm", "eps", "gated", "expert_ids", "expert_weights", "scratch"]
    names += [*BIASES] * problem.bias + ["post_norm"] * problem.post_norm
    return names + [*BESIDE] * problem.beside + ["out_scale"] * problem.out_scale


def _layouts(problem: Moe, config) -> dict[str, ActivationLayout]:
    """What each matrix reads."""
    return {m.name: blocks.activations(m.format, m.cols, problem.activation, config["path"]) for m in _packed(problem)}


@dataclass(frozen=True)
class _Places:
    """Byte offsets in a thread's scratch. x: the quantized activations of each norm and kind that matrices of `hidden`
    columns read; normed: x before that; shared_down: what that reads, behind what down reads of each expert, which
    begins at 0 when the others are no longer needed; raised: the rows of up, or the sum that a post norm norms; other:
    what the shared expert gives `beside` that; logits: of all experts, then of the shared one; own: the logits with
    their biases; ids, weights: of the chosen experts, then the shared one's."""

    x: dict[tuple[str, ActivationLayout], int]
    normed: int
    shared_down: int
    raised: int
    other: int
    logits: int
    own: int
    ids: int
    weights: int
    bytes: int


def _places(problem: Moe, config) -> _Places:
    layouts = _layouts(problem, config)
    x, end = {}, 0
    for name, layout in layouts.items():
        key = (_norm(problem, name), layout)
        if "down" not in name and key not in x:
            x[key], end = end, end + layout.bytes
    x_end = end + 4 * problem.hidden
    shared_down = problem.used * layouts["down"].bytes
    down_end = shared_down + (layouts["shared_down"].bytes if problem.shared_ffn else 0)
    raised = _lines(max(x_end, down_end))
    sums = tiles.padded(problem.hidden if problem.post_norm else 0, parameters.MAX_LANES)
    rows = max(tiles.padded(problem.gated, parameters.MAX_LANES), sums * (1 + problem.beside))
    logits = raised + 4 * rows
    # Whole tiles of the router are written, and whole vectors read from the shared expert's on.
    own = logits + 4 * (tiles.padded(problem.experts + problem.shared_gated, parameters.MAX_LANES) + LANES)
    ids = own + (4 * padded(problem.experts) if problem.bias else 0)
    weights = ids + 4 * padded(problem.used)
    last = weights + 4 * (padded(problem.used) + LANES)
    return _Places(x, end, shared_down, raised, raised + 4 * sums, logits, own, ids, weights, _lines(last))


def _reader(problem: Moe, at: _Places, norm: str) -> Callable:
    """njit (x, weight, scratch: addresses, eps: float32) -> None: x normed with that weight, and quantized as matrices
    read it."""
    kinds = [(layout, place) for (of, layout), place in at.x.items() if of == norm]
    (first, first_at), (second, second_at), hidden, normed = kinds[0], kinds[-1], problem.hidden, at.normed
    normalize, quantize_first, quantize_second = normalizer(hidden), quantizer(first), quantizer(second)
    both = len(kinds) > 1

    @device_function(first, second, first_at, second_at, normed)
    def read(x, weight, scratch, eps):
        normalize(x, weight, scratch + normed, eps)
        quantize_first(scratch + normed, scratch + first_at)
        if both:
            quantize_second(scratch + normed, scratch + second_at)

    return read


def _adder(hidden: int, beside: bool, scaled: bool) -> Callable:
    """njit (y, other, x, own_norm, other_norm, post_norm: addresses of float32 [hidden], eps, out_scale: as of
    `residual_normalizer`) -> None: its sum; of both y and `other` normed before, if `beside`, which alone reads what is
    called so."""
    sum_normed, add_normed = normed_adder(hidden), residual_normalizer(hidden, scaled)

    @device_function(hidden, beside, scaled)
    def add(y, other, x, own_norm, other_norm, post_norm, eps, out_scale):
        if beside:
            sum_normed(y, other, own_norm, other_norm, eps)
        add_normed(y, post_norm, x, eps, out_scale)

    return add


def _lines(size: int) -> int:
    return -(-size // 64) * 64


def scratch_bytes(problem: Moe, config) -> int:
    return _places(problem, config).bytes


def compile(problem: Moe, config, features) -> Kernel:
    p, at, layouts = problem, _places(problem, config), _layouts(problem, config)
    numbers = {m.name: i for i, m in enumerate(_packed(problem))}
    behind = matrix.BYTES * len(numbers)
    place = {name: matrix.BYTES * numbers.get(name, 0) for name in PARTS}
    router_at, gate_at, up_at, down_at = (place[name] for name in ("router", "gate", "up", "down"))
    shared_gate_at, shared_up_at, shared_down_at = (place[f"shared_{name}"] for name in ("gate", "up", "down"))
    experts, used, ffn, shared_ffn, hidden = p.experts, p.used, p.ffn, p.shared_ffn, p.hidden
    bias, post_norm, shared, shared_gated = bool(p.bias), bool(p.post_norm), shared_ffn > 0, bool(p.shared_gated)
    raised_at, other_at, logits_at, own_at, ids_at = at.raised, at.other, at.logits, at.own, at.ids
    weights_at, per_thread, shared_x = at.weights, at.bytes, at.shared_down
    shared_logit = 4 * experts
    down_bytes = layouts["down"].bytes
    beside, scaled, names = bool(p.beside), bool(p.out_scale), _buffers(problem)
    read, read_routed, read_shared = (_reader(p, at, _norm(p, name)) for name in ("gate", "router", "shared_gate"))
    router_norm, shared_norm, experts_post_norm, shared_post_norm, expert_scale, post_norm_at, out_scale = (
        8 * names.index(name) if name in names else 0 for name in (*BESIDE, "post_norm", "out_scale")
    )
    quantize_down, weigh = quantizer(layouts["down"]), weigher(layouts["down"])
    shared_layout = layouts.get("shared_down", layouts["down"])
    quantize_shared, weigh_shared = quantizer(shared_layout), weigher(shared_layout)
    add_normed = _adder(hidden, beside, scaled)
    choose = chooser(experts, used, p.routing, bool(p.normalized), p.scale)
    load, splat = simd.load("f32", LANES), simd.splat("f32", LANES)
    gate_by, exp = gating(p.gate_function, LANES), exponential(LANES)
    shared_share = weights_at + 4 * padded(used)

    def moe(arguments, sync, thread, threads):
        a = arguments + behind
        x, norm, eps, gated = load_i64(a), load_i64(a + 8), load_f32(load_i64(a + 16)), load_i64(a + 24)
        first_scratch = load_i64(a + 48)
        scratch, logits = first_scratch + thread * per_thread, first_scratch + logits_at
        raised, own, ids, weights = scratch + raised_at, logits, scratch + ids_at, scratch + weights_at

        read(x, norm, scratch, eps)
        if beside:
            read_routed(x, load_i64(a + router_norm), scratch, eps)
            read_shared(x, load_i64(a + shared_norm), scratch, eps)
        multiply_share(arguments + router_at, thread, threads, scratch, logits, 0)
        barrier(sync, threads)

        if bias:
            own = scratch + own_at
            for e in range(experts):
                store_f32(own + 4 * e, load_f32(logits + 4 * e) + load_f32(load_i64(a + 56) + 4 * e))
        choose(own, ids, weights)
        if beside:
            for j in range(used):
                of_expert = load_f32(load_i64(a + expert_scale) + 4 * np.int64(load_i32(ids + 4 * j)))
                store_f32(weights + 4 * j, load_f32(weights + 4 * j) * of_expert)
        if thread == 0:
            for j in range(used):
                store_i32(load_i64(a + 32) + 4 * j, load_i32(ids + 4 * j))
                store_f32(load_i64(a + 40) + 4 * j, load_f32(weights + 4 * j))

        gate, up, lanes = arguments + gate_at, arguments + up_at, lanes_of(arguments + gate_at)
        each = ffn // lanes  # tiles of an expert
        first, last = first_of(used * each, thread, threads), first_of(used * each, thread + 1, threads)
        for j in range(used):
            begin, end = max(first, j * each), min(last, (j + 1) * each)
            if begin < end:
                expert = np.int64(load_i32(ids + 4 * j))
                ahead = (expert - j) * each
                multiply(gate, begin + ahead, end + ahead, scratch, gated - 4 * lanes * ahead, 0)
                multiply(up, begin + ahead, end + ahead, scratch, raised - 4 * lanes * ahead, 0)
                for row in range(begin * lanes, end * lanes, LANES):
                    g, u = load(gated + 4 * row), load(raised + 4 * row)
                    if bias:
                        of_file = 4 * (row + lanes * ahead)
                        g, u = g + load(load_i64(a + 64) + of_file), u + load(load_i64(a + 72) + of_file)
                    simd.store(gated + 4 * row, gate_by(g, u))
        if shared:
            count, lanes = tiles_of(arguments + shared_gate_at), lanes_of(arguments + shared_gate_at)
            first, last = first_of(count, thread, threads), first_of(count, thread + 1, threads)
            others, others_raised = gated + 4 * used * ffn, raised + 4 * used * ffn
            multiply(arguments + shared_gate_at, first, last, scratch, others, 0)
            multiply(arguments + shared_up_at, first, last, scratch, others_raised, 0)
            for row in range(first * lanes, last * lanes, LANES):
                simd.store(others + 4 * row, gate_by(load(others + 4 * row), load(others_raised + 4 * row)))
        barrier(sync, threads)

        for j in range(used):
            quantize_down(gated + 4 * ffn * j, scratch + down_bytes * j)
            weigh(scratch + down_bytes * j, load_f32(weights + 4 * j))
        down, lanes = arguments + down_at, lanes_of(arguments + down_at)
        each, out = hidden // lanes, x
        first, last = first_of(each, thread, threads), first_of(each, thread + 1, threads)
        if post_norm:
            out = first_scratch + raised_at
            for row in range(first * lanes, last * lanes, LANES):
                simd.store(out + 4 * row, splat(np.float32(0.0)))
        for j in range(used):
            ahead = np.int64(load_i32(ids + 4 * j)) * each
            multiply(down, first + ahead, last + ahead, scratch + down_bytes * j, out - 4 * lanes * ahead, 1)
            if bias:
                share = splat(load_f32(weights + 4 * j))
                for row in range(first * lanes, last * lanes, LANES):
                    b = load(load_i64(a + 80) + 4 * (row + lanes * ahead))
                    simd.store(out + 4 * row, load(out + 4 * row) + share * b)
        if shared:
            quantize_shared(gated + 4 * used * ffn, scratch + shared_x)
            if shared_gated:
                unity, logit = splat(np.float32(1.0)), load(logits + shared_logit)
                simd.store(scratch + shared_share, unity / (unity + exp(splat(np.float32(0.0)) - logit)))
                weigh_shared(scratch + shared_x, load_f32(scratch + shared_share))
            if beside:
                multiply(arguments + shared_down_at, first, last, scratch + shared_x, first_scratch + other_at, 0)
            else:
                multiply(arguments + shared_down_at, first, last, scratch + shared_x, out, 1)
        if post_norm and comes_last(sync, threads):
            add_normed(
                out, first_scratch + other_at, x, load_i64(a + experts_post_norm), load_i64(a + shared_post_norm),
                load_i64(a + post_norm_at), eps, load_i64(a + out_scale),
            )  # fmt: skip

    rows = (
        blocks.compile_rows(parameters.shape(config, m.format, m.cols, PARTS[m.name]), layouts[m.name], features)
        for m in _packed(problem)
    )
    key = blocks.key_of(problem, problem.activation, config["path"])
    return compile_kernel(moe, f"{key} {at}").with_rows(*rows)


def pack(problem: Moe, config, weights) -> tuple[tiles.Tiles, ...]:
    raws = {m.name: weights[m.name].raw for m in _packed(problem)}
    if problem.shared_gated:
        raws["router"] = torch.cat([raws["router"], weights["shared_router"].raw])
    return tuple(
        tiles.pack(raw, weights[n].cols, weights[n].format, config[f"{PARTS[n]}lanes"]) for n, raw in raws.items()
    )


def bind(problem: Moe, config, kernel: Kernel, packed: Sequence[tiles.Tiles], buffers) -> Step:
    places, layouts = _places(problem, config).x, _layouts(problem, config)
    matrices = [
        word
        for m, tile, rows in zip(_packed(problem), packed, kernel.rows, strict=True)
        for word in matrix.arguments(
            tile, rows, 0 if PARTS[m.name] == "down_" else places[_norm(problem, m.name), layouts[m.name]]
        )
    ]
    return step(kernel, (*matrices, *(buffers[name] for name in _buffers(problem))), "moe")
