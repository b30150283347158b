"""The choice of a token's experts on the CPU: the largest logits, and their weights."""

import functools
from collections.abc import Callable

import numpy as np

from kernel_templates.cpu import simd, tiles
from kernel_templates.cpu.activations import exponential
from kernel_templates.cpu.compile import device_function
from kernel_templates.cpu.simd import load_f32, load_i32, store_f32, store_i32

LANES = 16


def padded(count: int) -> int:
    """Elements that logits, and weights, have room for."""
    return tiles.padded(count, LANES)


@functools.cache
def chooser(experts: int, used: int, routing: str, normalized: bool, scale: float) -> Callable:
    """njit (logits, ids, weights: addresses of float32 [padded(experts)], int32 [used], float32 [padded(used)]) ->
    None: as of `Moe`, from the largest on.

    Of logits that are not all finite come experts that there are, and weights that are NaN.
    """
    load, splat, exp = simd.load("f32", LANES), simd.splat("f32", LANES), exponential(LANES)
    lowest, zero, one = np.float32(-np.inf), np.float32(0.0), np.float32(1.0)
    over_all, factor = routing == "softmax" and not normalized, np.float32(scale)
    sigmoid, divided = routing == "sigmoid", normalized or routing != "sigmoid"

    @device_function(experts, used, routing, normalized, scale)
    def choose(logits, ids, weights):
        for j in range(used):
            store_f32(weights + 4 * j, lowest)
            store_i32(ids + 4 * j, np.int32(j))
        for e in range(experts):
            logit = load_f32(logits + 4 * e)
            if logit > load_f32(weights + 4 * (used - 1)):  # of equal ones the first stays
                j = used - 1
                while j > 0 and logit > load_f32(weights + 4 * (j - 1)):
                    store_f32(weights + 4 * j, load_f32(weights + 4 * (j - 1)))
                    store_i32(ids + 4 * j, load_i32(ids + 4 * (j - 1)))
                    j -= 1
                store_f32(weights + 4 * j, logit)
                store_i32(ids + 4 * j, np.int32(e))

        largest = splat(load_f32(weights))
        broken, total = splat(zero), splat(zero)
        for i in range(0, experts, LANES):
            v = load(logits + 4 * i)
            broken = broken + simd.keep_first(v - v, experts - i, zero)
            if over_all:
                total = total + simd.keep_first(exp(v - largest), experts - i, zero)
        for i in range(0, used, LANES):
            v = load(weights + 4 * i)
            w = splat(one) / (splat(one) + exp(splat(zero) - v)) if sigmoid else exp(v - largest)
            if not over_all:
                total = total + simd.keep_first(w, used - i, zero)
            simd.store(weights + 4 * i, w)
        share = splat(factor / simd.sum_f32(total) if divided else factor) + splat(simd.sum_f32(broken))
        for i in range(0, used, LANES):
            simd.store(weights + 4 * i, load(weights + 4 * i) * share)

    return choose
