"""The kernels of a product with the matrices of several experts: a program has rows of one expert's matrix and a block
of the pairs that use it.

How many blocks there are is known on the device alone. The grid has as many programs as there can be; those beyond the
last block end at once. Where weights lie follows from the sorted pairs, so nothing is asked for before the wait.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.experts import block_at, from_row
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.thin import multiply_thin
from kernel_templates.cuda.wide import finish, multiply_wide


@triton.jit
def grouped_thin(
    w0, w1, w2, w3, x, out, offsets, pairs, gate_bias, up_bias,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, USED: tl.constexpr, TRAITS: tl.constexpr,
    COLS: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
    WARPS: tl.constexpr, STEPS: tl.constexpr, AHEAD: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr,
    OUT_ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`thin.thin` of the pairs of an expert, ROWS of y: rows pairs[i] of out are made of rows pairs[i] // USED of x.
    Programs (block of rows, block of pairs)."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    part = tl.program_id(0)
    expert, first, count = block_at(tl.program_id(1), offsets, EXPERTS, LANES, BLOCK)
    if count > 0:
        row = expert.to(tl.int64) * ROWS
        w0, w1, w2, w3 = from_row(w0, w1, w2, w3, row, TRAITS, COLS)
        multiply_thin(
            part, part, 0, w0, w1, w2, w3, x, out, out, offsets, ROWS, EXPERTS * ROWS, count, pairs + first,
            None if gate_bias is None else gate_bias + row, None if up_bias is None else up_bias + row,
            TRAITS, COLS, WIDTH, ORDER, BLOCK, TILES, WARPS, STEPS, 1, AHEAD, False, GATE, OUT_WIDTH, OUT_ORDER,
            False, USED, False, ASM,
        )  # fmt: skip


@triton.jit
def grouped_wide(
    w0, w1, w2, w3, x, out, offsets, pairs, gate_bias, up_bias,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, USED: tl.constexpr, TRAITS: tl.constexpr,
    COLS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, WARPS: tl.constexpr, PARTS: tl.constexpr,
    AHEAD: tl.constexpr, STAGES: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr, OUT_ORDER: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The same by `wide.wide`."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    part = tl.program_id(0)
    expert, first, count = block_at(tl.program_id(1), offsets, EXPERTS, LANES, BLOCK)
    if count > 0:
        row = expert.to(tl.int64) * ROWS
        w0, w1, w2, w3 = from_row(w0, w1, w2, w3, row, TRAITS, COLS)
        multiply_wide(
            part, part, 0, 0, w0, w1, w2, w3, x, out, out, offsets, ROWS, EXPERTS * ROWS, count, pairs + first,
            None if gate_bias is None else gate_bias + row, None if up_bias is None else up_bias + row,
            TRAITS, COLS, BLOCK, TILES, WARPS, PARTS, AHEAD, STAGES, 1, GATE, OUT_WIDTH, OUT_ORDER, False, USED,
            False, ASM,
        )  # fmt: skip


@triton.jit
def grouped_float(
    w0, w1, w2, w3, x, out, offsets, pairs, gate_bias, up_bias,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, USED: tl.constexpr, TRAITS: tl.constexpr,
    COLS: tl.constexpr, BLOCK: tl.constexpr, WARPS: tl.constexpr, GATE: tl.constexpr, OUT_WIDTH: tl.constexpr,
    OUT_ORDER: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The same of matrices of floats, which are multiplied as float16; x in its natural order."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    M: tl.constexpr = 16 * WARPS
    part = tl.program_id(0)
    expert, first, count = block_at(tl.program_id(1), offsets, EXPERTS, LANES, BLOCK)
    if count > 0:
        row = expert.to(tl.int64) * ROWS
        w0, w1, w2, w3 = from_row(w0, w1, w2, w3, row, TRAITS, COLS)
        pairs += first
        token = (tl.load(pairs + tl.minimum(tl.arange(0, BLOCK), count - 1)) // USED)[None, :]
        at = part * M + tl.arange(0, M)[:, None]
        z = tl.zeros([M, BLOCK], tl.float32)
        up = z
        for k in tl.range(0, COLS, 32):
            z = float_dot(w0, at, ROWS, x, token, k, z, TRAITS, COLS)
            if GATE != "":
                up = float_dot(w0 + EXPERTS * ROWS * (COLS // TRAITS.unit * 4), at, ROWS, x, token, k, up, TRAITS, COLS)
        finish(
            (z,) if GATE == "" else (z, up), out, part * M, 0, ROWS, count, pairs,
            None if gate_bias is None else gate_bias + row, None if up_bias is None else up_bias + row,
            GATE, OUT_WIDTH, OUT_ORDER, ASM,
        )  # fmt: skip


@triton.jit
def float_dot(w, at, rows, x, token, k, acc, TRAITS: tl.constexpr, COLS: tl.constexpr):
    """acc plus 32 columns from k on of rows `at` [M, 1] times those of tokens [1, BLOCK] of x."""
    if TRAITS.kind == "f32":
        c = k + tl.arange(0, 32)
        left = tl.load(w + at * COLS + c[None, :], mask=at < rows, other=0).to(tl.float32, bitcast=True)
        return tl.dot(left.to(tl.float16), tl.load(x + token * COLS + c[:, None]), acc)
    else:
        i = tl.arange(0, 16)
        words = tl.load(w + at * (COLS // 2) + (k // 2 + i)[None, :], mask=at < rows, other=0)
        c = (k + i // 4 * 8 + i % 4)[:, None]  # of the lower half of a word; that of the upper is 4 further
        acc = tl.dot(float_half(words, 0, TRAITS), tl.load(x + token * COLS + c), acc)
        return tl.dot(float_half(words, 1, TRAITS), tl.load(x + token * COLS + c + 4), acc)


@triton.jit
def float_half(words, PART: tl.constexpr, TRAITS: tl.constexpr):
    """float16 of the lower (0) or upper (1) halves of words."""
    if TRAITS.kind == "bf16":
        bits = words & -0x10000 if PART == 1 else words << 16
        return bits.to(tl.float32, bitcast=True).to(tl.float16)
    else:
        bits = words >> 16 if PART == 1 else words & 0xFFFF
        return bits.to(tl.int16).to(tl.float16, bitcast=True)
