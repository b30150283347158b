"""Activations as kernels read them: quantized by blocks of 32, with the sums that the weights' zero points need.

    int8   x ~ s*q,  q = round(x/s) in [-127, 127],         s = max|x| / 127
    int16  x ~ s*q,  q = 128*high + low in [-16256, 16256], s = max|x| / 16256, kept as two int8 planes
    f32    x itself (for float weights)

int16 costs a second integer dot product per weight word, and no memory traffic worth naming: its error is 128 times
smaller. Where products take pairs of 16 bits (`dot.takes_pairs`), either kind is kept as pairs of them instead, which
costs one product for both. One buffer holds it all, `ActivationLayout` says where; a kernel gives each thread a buffer
of its own.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernel_templates.cpu import simd
from kernel_templates.cpu.compile import device_function

BLOCK = 32
KINDS = ("int8", "int16", "f32")
LIMIT = {"int8": 127.0, "int16": 127.0 * 128.0}


@dataclass(frozen=True)
class ActivationLayout:
    """Byte offsets inside one buffer of `cols` activations of a kind: quants (one or two int8 planes, or `pairs` of
    int16), scales (f32 a block), sums (int32 a block), half_sums (int32 per 16 elements).

    Of four quants, a pair has the first and the third, the next one the second and the fourth, as masks give weights.
    """

    cols: int
    kind: str
    pairs: bool = False

    @property
    def planes(self) -> int:
        """Places that a product finds quants at, `cols` times `size` bytes apart."""
        return 2 if self.kind == "int16" and not self.pairs else 1

    @property
    def size(self) -> int:
        """Bytes of a quant in a plane."""
        return 2 if self.pairs else 1

    @property
    def scales(self) -> int:
        return self.cols * self.planes * self.size

    @property
    def sums(self) -> int:
        return self.scales + 4 * (self.cols // BLOCK)

    @property
    def half_sums(self) -> int:
        return self.sums + 4 * (self.cols // BLOCK)

    @property
    def bytes(self) -> int:
        """Size of a buffer, rounded up to cache lines."""
        used = 4 * self.cols if self.kind == "f32" else self.half_sums + 8 * (self.cols // BLOCK)
        return -(-used // 64) * 64


@functools.cache
def quantizer(layout: ActivationLayout) -> Callable:
    """njit (x: address of float32 [cols], out: address of a buffer) -> None."""
    cols, scales, sums, half_sums = layout.cols, layout.scales, layout.sums, layout.half_sums
    load, splat, zero_splat = simd.load("f32", 16), simd.splat("f32", 16), simd.splat("i32", 16)
    load_block = simd.load("f32", BLOCK)

    if layout.kind == "f32":

        @device_function(layout)
        def copy(x, out):
            for i in range(cols // 16):
                simd.store(out + 64 * i, load(x + 64 * i))

        return copy

    two_planes, pairs, limit = layout.planes == 2, layout.pairs, np.float32(LIMIT[layout.kind])
    inverse = np.float32(1.0) / limit

    @device_function(layout)
    def quantize(x, out):
        for b in range(cols // 32):
            first, second = load(x + 128 * b), load(x + 128 * b + 64)
            largest = simd.max_magnitude(load_block(x + 128 * b))
            simd.store_f32(out + scales + 4 * b, largest * inverse)
            factor = splat(limit / largest if largest > np.float32(1e-30) else np.float32(0.0))
            q0, q1 = simd.round_to_i32(first * factor), simd.round_to_i32(second * factor)
            s0, s1 = simd.sum_i32(q0), simd.sum_i32(q1)
            simd.store_i32(out + half_sums + 8 * b, s0)
            simd.store_i32(out + half_sums + 8 * b + 4, s1)
            simd.store_i32(out + sums + 4 * b, np.int32(s0 + s1))
            if two_planes:
                bias, seven = zero_splat(np.int32(64)), zero_splat(np.int32(7))
                h0, h1 = simd.shift_arithmetic(q0 + bias, seven), simd.shift_arithmetic(q1 + bias, seven)
                simd.store(out + cols + 32 * b, simd.narrow(q0 - (h0 << seven)))
                simd.store(out + cols + 32 * b + 16, simd.narrow(q1 - (h1 << seven)))
                q0, q1 = h0, h1
            if pairs:
                simd.store(out + 64 * b, simd.in_pairs(q0))
                simd.store(out + 64 * b + 32, simd.in_pairs(q1))
            else:
                simd.store(out + 32 * b, simd.narrow(q0))
                simd.store(out + 32 * b + 16, simd.narrow(q1))

    return quantize


@functools.cache
def normalizer(cols: int, weighted: bool = True) -> Callable:
    """njit (x, weight, out: addresses of float32 [cols], eps: float32) -> None: out = x / rms(x) * weight, or without
    the weight, whose address is not followed then.

    RMSNorm in float32: the sum of squares runs in 16 lanes, each the length of cols/16 additions.
    """
    load, splat = simd.load("f32", 16), simd.splat("f32", 16)

    @device_function(cols, weighted)
    def normalize(x, weight, out, eps):
        squares = splat(np.float32(0.0))
        for i in range(cols // 16):
            v = load(x + 64 * i)
            squares = simd.fma(v, v, squares)
        mean = simd.sum_f32(squares) / np.float32(cols)
        scale = splat(np.float32(1.0) / np.sqrt(mean + eps))
        for i in range(cols // 16):
            y = load(x + 64 * i) * scale
            if weighted:
                y = y * load(weight + 64 * i)
            simd.store(out + 64 * i, y)

    return normalize


@functools.cache
def normed_adder(cols: int) -> Callable:
    """njit (y, z, y_weight, z_weight: addresses of float32 [cols], eps: float32) -> None: y is then the sum of both
    normed, z what it is normed."""
    normalize, load = normalizer(cols), simd.load("f32", 16)

    @device_function(cols)
    def add(y, z, y_weight, z_weight, eps):
        normalize(y, y_weight, y, eps)
        normalize(z, z_weight, z, eps)
        for i in range(cols // 16):
            simd.store(y + 64 * i, load(y + 64 * i) + load(z + 64 * i))

    return add


@functools.cache
def residual_normalizer(cols: int, scaled: bool = False) -> Callable:
    """njit (y, weight, x: addresses of float32 [cols], y with zeros up to a multiple of 16; eps: float32; out_scale:
    address of float32 [1], followed if `scaled`) -> None: x += y / rms(y) * weight, summed as `normalizer` does, then,
    if `scaled`, times the scale."""
    load, splat, pieces = simd.load("f32", 16), simd.splat("f32", 16), -(-cols // 16)

    @device_function(cols, scaled)
    def add_normed(y, weight, x, eps, out_scale):
        squares = splat(np.float32(0.0))
        for i in range(pieces):
            v = load(y + 64 * i)
            squares = simd.fma(v, v, squares)
        mean = simd.sum_f32(squares) / np.float32(cols)
        scale = splat(np.float32(1.0) / np.sqrt(mean + eps))
        for i in range(pieces):
            at = 64 * i
            v = load(x + at) + load(y + at) * scale * load(weight + at)
            if scaled:
                v = v * splat(simd.load_f32(out_scale))
            simd.store(x + at, v)

    return add_normed


@functools.cache
def input_mixer(hidden: int, size: int) -> Callable:
    """njit (projected, norm, inputs: addresses of float32 [size], eps: float32) -> None: one layer's part of
    `PerLayerInputs`' formula. projected is W x: the division by sqrt(hidden) before the norm is one of its eps."""
    normalize, load, splat = normalizer(size), simd.load("f32", 16), simd.splat("f32", 16)
    half, factor = np.float32(np.sqrt(0.5)), np.float32(hidden)

    @device_function(hidden, size)
    def mix(projected, norm, inputs, eps):
        normalize(projected, norm, projected, eps * factor)
        for i in range(0, 4 * size, 4 * 16):
            simd.store(inputs + i, (load(projected + i) + load(inputs + i)) * splat(half))

    return mix


@functools.cache
def exponential(lanes: int) -> Callable:
    """njit (Vec(f32, lanes)) -> Vec: e**x for x in [-87, 88] (clamped), relative error below 2e-7.

    x = n ln2 + r with |r| <= ln2/2, e**r by its Taylor polynomial to r**7, 2**n through the exponent bits.
    """
    splat, integer = simd.splat("f32", lanes), simd.splat("i32", lanes)
    ln2_high, ln2_low = np.float32(0.693359375), np.float32(-2.12194440e-4)
    taylor = tuple(np.float32(1.0 / n) for n in (5040, 720, 120, 24, 6, 2, 1, 1))
    c7, c6, c5, c4, c3, c2, c1, c0 = taylor

    @device_function(lanes)
    def exp(x):
        x = simd.maximum(splat(np.float32(-87.0)), simd.minimum(splat(np.float32(88.0)), x))  # NaN stays
        n = simd.round_to_i32(x * splat(np.float32(1.4426950408889634)))
        whole = simd.to_f32(n)
        r = simd.fma(whole, splat(-ln2_high), x)
        r = simd.fma(whole, splat(-ln2_low), r)
        y = simd.fma(splat(c7), r, splat(c6))
        y = simd.fma(y, r, splat(c5))
        y = simd.fma(y, r, splat(c4))
        y = simd.fma(y, r, splat(c3))
        y = simd.fma(y, r, splat(c2))
        y = simd.fma(y, r, splat(c1))
        y = simd.fma(y, r, splat(c0))
        return y * simd.as_f32_bits((n + integer(np.int32(127))) << integer(np.int32(23)))

    return exp


@functools.cache
def gate_function(name: str, lanes: int) -> Callable:
    """njit (Vec(f32, lanes)) -> Vec: the gate function of that name.

    silu(x) = x / (1 + e^-x); gelu(x) = x/2 (1 + tanh(z)) = x / (1 + e^-2z), z = sqrt(2/pi) (x + 0.044715 x^3).
    """
    splat, exp = simd.splat("f32", lanes), exponential(lanes)
    minus_two_z, cubic = np.float32(-2.0 * np.sqrt(2.0 / np.pi)), np.float32(0.044715)

    @device_function(lanes)
    def silu(x):
        return x / (splat(np.float32(1.0)) + exp(x * splat(np.float32(-1.0))))

    @device_function(lanes)
    def gelu(x):
        one = splat(np.float32(1.0))
        return x / (one + exp(x * simd.fma(x * x, splat(cubic), one) * splat(minus_two_z)))

    return {"silu": silu, "gelu": gelu}[name]


OAI_ALPHA, OAI_LIMIT = np.float32(1.702), np.float32(7.0)


@functools.cache
def gating(name: str, lanes: int) -> Callable:
    """njit (gate, up: Vec(f32, lanes)) -> Vec: what down multiplies.

    g(gate) * up with the gate function of that name; "swiglu_oai" as `moe.problem.GATE_FUNCTIONS` says.
    """
    splat, exp = simd.splat("f32", lanes), exponential(lanes)

    if name == "swiglu_oai":

        @device_function(lanes)
        def clamped(gate, up):
            one, limit = splat(np.float32(1.0)), splat(OAI_LIMIT)
            g = simd.minimum(limit, gate)  # NaN stays
            u = simd.maximum(splat(-OAI_LIMIT), simd.minimum(limit, up))
            return g / (one + exp(g * splat(-OAI_ALPHA))) * (one + u)

        return clamped

    function = gate_function(name, lanes)

    @device_function(name, lanes)
    def gated(gate, up):
        return function(gate) * up

    return gated


@functools.cache
def weigher(layout: ActivationLayout) -> Callable:
    """njit (buffer: address of quantized activations, factor: float32) -> None: as if they had been times that."""
    first, count = (0, layout.cols) if layout.kind == "f32" else (layout.scales, layout.cols // BLOCK)

    @device_function(layout)
    def weigh(buffer, factor):
        for i in range(count):
            at = buffer + first + 4 * i
            simd.store_f32(at, simd.load_f32(at) * factor)

    return weigh


@functools.cache
def soft_cap(cap: float, lanes: int) -> Callable:
    """njit (Vec(f32, lanes)) -> Vec: cap tanh(x / cap), tanh(t) = 1 - 2 / (1 + e^2t).

    An infinite x becomes NaN: behind the cap nobody would see that numbers have overflowed.
    """
    splat, exp, limit, inverse = simd.splat("f32", lanes), exponential(lanes), np.float32(cap), np.float32(1.0 / cap)

    @device_function(cap, lanes)
    def capped(x):
        one, two = splat(np.float32(1.0)), splat(np.float32(2.0))
        t = x * splat(inverse)
        return (one - two / (one + exp(t * two)) + (t - t)) * splat(limit)

    return capped
