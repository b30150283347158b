"""A product of a packed matrix with many tokens: weights decoded in registers, tokens through shared memory."""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import decoded, fragment, load_rows
from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.thin import together


@triton.jit(do_not_specialize=["tokens"])
def arrange(
    x, out, tokens, padded,
    UNIT: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, KWIDTH: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out [padded, WIDTH]: x [tokens, COLS] with columns in the order of `fragment`; zeros beyond."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token, k = at // WIDTH, at % WIDTH
    chunk = k // 32  # of a step: 32 columns, 8 of each unit
    if KWIDTH == 4:
        p, j, h, e = k // 16 % 2, k // 4 % 4, k // 2 % 2, k % 2
    else:
        h, p, j, e = k // 16 % 2, k // 8 % 2, k // 2 % 4, k % 2
    CHUNKS: tl.constexpr = UNIT // 8
    unit = chunk // CHUNKS * 4 + j
    if UNIT == 32:
        column = unit * 32 + chunk % CHUNKS * 8 + h * 4 + p * 2 + e
    else:
        column = unit // 2 * 32 + unit % 2 * 4 + (chunk % CHUNKS * 2 + h) * 8 + p * 2 + e
    keep = (column < COLS) & (token < tokens)
    tl.store(out + at, tl.load(x + token * COLS + column, mask=keep, other=0.0), mask=token < padded)


@triton.jit(do_not_specialize=["tokens"])
def wide(
    w0, w1, w2, w3, x, out, rows, tokens,
    TRAITS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, KWIDTH: tl.constexpr, BT: tl.constexpr,
    TILES: tl.constexpr, WARPS: tl.constexpr,
    PARTS: tl.constexpr, STAGES: tl.constexpr, BAND: tl.constexpr, STREAM: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out [tokens, rows] float32 = x times W transposed; x arranged, [whole blocks of BT, WIDTH]."""
    M: tl.constexpr = 16 * WARPS
    BLOCK: tl.constexpr = M * TILES
    program = tl.program_id(0)
    across, down = tl.cdiv(tokens, BT), tl.cdiv(rows, BLOCK)
    band = program // (BAND * across)
    high = min(down - band * BAND, BAND)
    pr = band * BAND + program % (BAND * across) % high
    pt = program % (BAND * across) // high
    if PDL:
        gdc_launch_dependents()
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    r = pr * BLOCK + (warp * 16 + g)
    u = j + warp * 0
    CHUNKS: tl.constexpr = TRAITS.unit // 8
    EACH: tl.constexpr = CHUNKS // PARTS
    K: tl.constexpr = 32 * EACH
    held = load_block(w0, w1, w2, w3, r, rows, u, TRAITS, COLS, TILES, M, STREAM)
    if PDL:
        gdc_wait()
    token = pt * BT + tl.arange(0, BT)
    k = tl.arange(0, K)
    acc = ()
    for i in tl.static_range(TILES):
        acc = acc + (tl.zeros([M, BT], tl.float32),)
    STEPS: tl.constexpr = WIDTH // (32 * CHUNKS)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        right = ()
        for c in tl.static_range(PARTS):
            at = x + token[None, :] * WIDTH + (step * (32 * CHUNKS) + c * K + k)[:, None]
            right = right + (tl.load(at),)
        parts = ()
        for t in tl.static_range(2 * TILES):
            parts = parts + (decoded(held[t], TRAITS, ASM),)
        held = load_block(w0, w1, w2, w3, r, rows, u + (step + 1) * 4, TRAITS, COLS, TILES, M, STREAM)
        for c in tl.static_range(PARTS):
            new = ()
            for t in tl.static_range(TILES):
                pieces = ()
                for w in tl.static_range(c * EACH, (c + 1) * EACH):
                    pieces = pieces + (
                        tl.join(
                            fragment(parts[2 * t], w, TRAITS, ASM), fragment(parts[2 * t + 1], w, TRAITS, ASM)
                        ),
                    )
                left = tl.reshape(together(pieces), [4, 8, WARPS, 2, 2, 2, 2, EACH])  # j g warp e p h half word
                if KWIDTH == 4:
                    left = tl.permute(left, [2, 6, 1, 7, 4, 0, 5, 3])
                else:
                    left = tl.permute(left, [2, 6, 1, 7, 5, 4, 0, 3])
                new = new + (tl.dot(tl.reshape(left, [M, K]), right[c], acc[t]),)
            acc = new
    LIFT: tl.constexpr = 0.5**TRAITS.lift
    for t in tl.static_range(TILES):
        row = pr * BLOCK + t * M + tl.arange(0, M)
        keep = (row < rows)[:, None] & (token < tokens)[None, :]
        tl.store(out + token[None, :] * rows + row[:, None], acc[t] * LIFT, mask=keep)


@triton.jit
def load_block(
    w0, w1, w2, w3, r, rows, u,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, M: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    from_rows = ()
    for t in tl.static_range(2 * TILES):
        below = t // 2 * M + t % 2 * 8
        inside = (u < COLS // TRAITS.unit) & (r + below < rows)
        from_rows = from_rows + (load_rows(w0, w1, w2, w3, r + below, u, inside, TRAITS, COLS, STREAM),)
    return from_rows
