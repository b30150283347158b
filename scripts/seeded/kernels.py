"""Seven of the ten seeded slow kernels, in Triton. Their names say nothing: what each does wrong is in labels.json."""

import triton
import triton.language as tl


@triton.jit
def k01(x, y, n, BLOCK: tl.constexpr):
    """y[i] = x[32 i]: x is a row-major [n, 32] matrix of which one column is wanted."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at * 32, mask=at < n) + 1.0, mask=at < n)


@triton.jit
def k03(x, y, rounds, BLOCK: tl.constexpr):
    """A recurrence over two tiles that stay live."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + at)
    b = a * 0.5
    c = a * 0.25
    for _ in range(rounds):
        a = a * b + c
        b = b * c + a
        c = c * a + b
    tl.store(y + at, a + b + c)


@triton.jit
def k04(x, y, rounds, BLOCK: tl.constexpr):
    """A polynomial of each element, of high degree."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at)
    a, b, c, d = v, v + 1.0, v + 2.0, v + 3.0
    for _ in range(rounds):
        a = a * v + 0.5
        b = b * v + 0.5
        c = c * v + 0.5
        d = d * v + 0.5
    tl.store(y + at, a + b + c + d)


@triton.jit
def k05(x, y, steps, BLOCK: tl.constexpr):
    """The sum of a row, by one program."""
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(steps):
        total += tl.load(x + (row * steps + i) * BLOCK + tl.arange(0, BLOCK))
    tl.store(y + row, tl.sum(total, 0))


@triton.jit
def k07(x, y, blocks, BLOCK: tl.constexpr):
    """The dot products of x with several powers of a number, one after the other."""
    part, power = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    at = part * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at)
    tl.store(y + tl.program_id(0), tl.sum(v * (0.5 + power), 0))


@triton.jit
def k08a(x, between, BLOCK: tl.constexpr):
    """between = x * sigmoid(x)"""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at)
    tl.store(between + at, v * tl.sigmoid(v))


@triton.jit
def k08b(between, y, BLOCK: tl.constexpr):
    """y = 2 between + 1"""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(between + at) * 2.0 + 1.0)


@triton.jit
def k10(x, counts, BLOCK: tl.constexpr):
    """How often each of eight values comes."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(counts + (tl.load(x + at) & 7), 1)
