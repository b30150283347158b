"""A mixture of experts over many rows on the CPU, but for its products: choices, their order, gates, the weighted sum.

A row is there once for each expert that it uses, as a pair: pair p is of row p // used. `grouped_matmul.cpu` multiplies
pairs with their experts' matrices.
"""

from dataclasses import dataclass

import numpy as np

from kernel_templates.cpu import blocks, simd
from kernel_templates.cpu.activations import exponential, gating, normed_adder
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cpu.graph import Step, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_f32, load_i32, load_i64, store_f32, store_i64
from kernel_templates.cpu.sync import comes_last
from kernel_templates.grouped_matmul.cpu import Sorted
from kernel_templates.moe.cpu_choose import LANES, chooser, padded
from kernel_templates.moe.problem import Moe


@dataclass(frozen=True)
class Choices:
    """What rows choose. ids int32 and weights float32 [most, used rounded up to 16]; order: of the pairs."""

    ids: np.ndarray
    weights: np.ndarray
    order: Sorted

    @classmethod
    def allocate(cls, problem: Moe, most: int) -> "Choices":
        wide = padded(problem.used)
        order = Sorted(np.zeros(problem.experts + 1, np.int64), np.zeros(most * problem.used, np.int64))
        return cls(np.zeros((most, wide), np.int32), np.zeros((most, wide), np.float32), order)


def logits_size(problem: Moe) -> int:
    """float32 elements of a row's logits: of all experts, behind them the shared one's, rounded up to whole vectors."""
    return padded(problem.experts + problem.shared_gated)


def compile_choose(problem: Moe) -> Kernel:
    """Each row's experts and weights from its logits; then, by the thread that is ready last, the order of pairs."""
    experts, used, wide, bias = problem.experts, problem.used, padded(problem.used), bool(problem.bias)
    choose = chooser(experts, used, problem.routing, bool(problem.normalized), problem.scale)
    load, logits_bytes = simd.load("f32", LANES), 4 * logits_size(problem)
    biased_bytes, scaled = 4 * padded(experts), bool(problem.beside)

    def choose_rows(arguments, sync, thread, threads):
        logits, rows, biases = load_i64(arguments), load_i64(load_i64(arguments + 8)), load_i64(arguments + 16)
        ids, weights = load_i64(arguments + 24), load_i64(arguments + 32)
        offsets, pairs, scales = load_i64(arguments + 40), load_i64(arguments + 48), load_i64(arguments + 56)
        for row in range(first_of(rows, thread, threads), first_of(rows, thread + 1, threads)):
            at = logits + logits_bytes * row
            if bias:
                for i in range(0, biased_bytes, 4 * LANES):
                    simd.store(at + i, load(at + i) + load(biases + i))
            choose(at, ids + 4 * wide * row, weights + 4 * wide * row)
            if scaled:
                for j in range(wide * row, wide * row + used):
                    scale = load_f32(scales + 4 * np.int64(load_i32(ids + 4 * j)))
                    store_f32(weights + 4 * j, load_f32(weights + 4 * j) * scale)
        if comes_last(sync, threads):
            for e in range(experts + 1):
                store_i64(offsets + 8 * e, 0)
            for row in range(rows):
                for j in range(used):
                    count = offsets + 8 * (load_i32(ids + 4 * (wide * row + j)) + 1)
                    store_i64(count, load_i64(count) + 1)
            for e in range(experts):
                store_i64(offsets + 8 * (e + 1), load_i64(offsets + 8 * (e + 1)) + load_i64(offsets + 8 * e))
            # Backwards, each expert's end moves to its beginning, and its pairs stay in their order.
            for row in range(rows - 1, -1, -1):
                for j in range(used - 1, -1, -1):
                    end = offsets + 8 * (load_i32(ids + 4 * (wide * row + j)) + 1)
                    place = load_i64(end) - 1
                    store_i64(end, place)
                    store_i64(pairs + 8 * place, used * row + j)
            for e in range(experts):
                store_i64(offsets + 8 * e, load_i64(offsets + 8 * (e + 1)))
            store_i64(offsets + 8 * experts, used * rows)

    return compile_kernel(choose_rows, f"choose rows {blocks.key_of(problem, problem.activation)}")


def bind_choose(kernel: Kernel, logits: np.ndarray, rows: np.ndarray, bias, scale, choices: Choices) -> Step:
    """logits: float32 [most, logits_size], changed where there is a bias; rows: int64 [1]; bias, scale: of each expert,
    float32 [experts, padded], or 0."""
    c = choices
    return step(kernel, (logits, rows, bias, c.ids, c.weights, c.order.offsets, c.order.pairs, scale), "choose")


def compile_gate(problem: Moe) -> Kernel:
    """Of each pair gate = what down multiplies, of gate and up with their biases."""
    ffn, used, wide, bias = problem.ffn, problem.used, padded(problem.used), bool(problem.bias)
    load, gated = simd.load("f32", LANES), gating(problem.gate_function, LANES)

    def gate_pairs(arguments, sync, thread, threads):
        gate, up, rows = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        ids, gate_bias, up_bias = load_i64(arguments + 24), load_i64(arguments + 32), load_i64(arguments + 40)
        pairs = rows * used
        for pair in range(first_of(pairs, thread, threads), first_of(pairs, thread + 1, threads)):
            expert = np.int64(load_i32(ids + 4 * (wide * (pair // used) + pair % used)))
            for i in range(0, 4 * ffn, 4 * LANES):
                at = 4 * ffn * pair + i
                g, u = load(gate + at), load(up + at)
                if bias:
                    g, u = g + load(gate_bias + 4 * ffn * expert + i), u + load(up_bias + 4 * ffn * expert + i)
                simd.store(gate + at, gated(g, u))

    return compile_kernel(gate_pairs, f"gate pairs {ffn} {used} {problem.gate_function} {bias}")


def bind_gate(kernel: Kernel, gate: np.ndarray, up: np.ndarray, rows, choices: Choices, biases: tuple) -> Step:
    """gate, up: float32 [most * used, ffn]; biases: float32 [experts * ffn] of gate and of up, or 0."""
    return step(kernel, (gate, up, rows, choices.ids, *biases), "gate")


def compile_combine(problem: Moe) -> Kernel:
    """Of each row the sum of what its experts gave and their biases, times their weights, and of what the shared one
    gave, times its own, unless that is `beside`."""
    hidden, used, wide, bias = problem.hidden, problem.used, padded(problem.used), bool(problem.bias)
    load, splat, exp = simd.load("f32", LANES), simd.splat("f32", LANES), exponential(LANES)
    shared, gated = problem.shared_ffn > 0 and not problem.beside, bool(problem.shared_gated)
    logits_bytes, shared_logit = 4 * logits_size(problem), 4 * problem.experts

    def combine_rows(arguments, sync, thread, threads):
        made, out, rows = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        ids, weights, biases = load_i64(arguments + 24), load_i64(arguments + 32), load_i64(arguments + 40)
        others, logits = load_i64(arguments + 48), load_i64(arguments + 56)
        zero, one = splat(np.float32(0.0)), splat(np.float32(1.0))
        for row in range(first_of(rows, thread, threads), first_of(rows, thread + 1, threads)):
            share = one
            if gated:
                share = one / (one + exp(zero - splat(load_f32(logits + logits_bytes * row + shared_logit))))
            for i in range(0, 4 * hidden, 4 * LANES):
                total = zero
                if shared:
                    total = load(others + 4 * hidden * row + i) * share
                for j in range(used):
                    part = load(made + 4 * hidden * (used * row + j) + i)
                    if bias:
                        part = part + load(biases + 4 * hidden * np.int64(load_i32(ids + 4 * (wide * row + j))) + i)
                    total = simd.fma(part, splat(load_f32(weights + 4 * (wide * row + j))), total)
                simd.store(out + 4 * hidden * row + i, total)

    return compile_kernel(combine_rows, f"combine rows {hidden} {used} {bias} {shared} {gated} {problem.experts}")


def bind_combine(
    kernel: Kernel, made: np.ndarray, out: np.ndarray, rows, choices: Choices, bias, shared, logits: np.ndarray
) -> Step:
    """made: float32 [most * used, hidden]; out: float32 [most, hidden], written; bias: float32 [experts * hidden], or
    0; shared: float32 [most, hidden], or 0; logits: as of `bind_choose`."""
    return step(kernel, (made, out, rows, choices.ids, choices.weights, bias, shared, logits), "combine")


def compile_beside(problem: Moe) -> Kernel:
    """Of each row the sum of what experts give and the network beside them, either normed by itself."""
    hidden, add = problem.hidden, normed_adder(problem.hidden)

    def sum_normed(arguments, sync, thread, threads):
        out, other, rows = load_i64(arguments), load_i64(arguments + 8), load_i64(load_i64(arguments + 16))
        norm, other_norm = load_i64(arguments + 24), load_i64(arguments + 32)
        eps = load_f32(load_i64(arguments + 40))
        for row in range(first_of(rows, thread, threads), first_of(rows, thread + 1, threads)):
            add(out + 4 * hidden * row, other + 4 * hidden * row, norm, other_norm, eps)

    return compile_kernel(sum_normed, f"beside {hidden}")


def bind_beside(
    kernel: Kernel, out: np.ndarray, other: np.ndarray, rows: np.ndarray, norms: tuple, eps: np.ndarray
) -> Step:
    """out, what is added up in it, and other: float32 [most, hidden], both changed; norms: of either, float32
    [hidden]."""
    return step(kernel, (out, other, rows, *norms, eps), "beside")
