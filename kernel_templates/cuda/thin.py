"""A product of a packed matrix with few tokens, which weights bound: tensor cores, weights from memory to registers."""

# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import decoded, fragment, load_rows
from kernel_templates.cuda.instructions import opaque


@triton.jit
def load_pair(
    w0, w1, w2, w3, r, u,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    inside = (u < COLS // TRAITS.unit) & (r >= 0)
    held = ()
    for t in tl.static_range(2 * TILES):
        held = held + (load_rows(w0, w1, w2, w3, r + 8 * t, u, inside, TRAITS, COLS, STREAM),)
    return held


@triton.jit
def together(parts):
    """Tensors of one shape, a power of two of them, as one with an axis of 2 for each bit of their number behind."""
    if len(parts) == 1:
        return parts[0]
    else:
        HALF: tl.constexpr = len(parts) // 2
        joined = ()
        for i in tl.static_range(HALF):
            joined = joined + (tl.join(parts[i], parts[i + HALF]),)
        return together(joined)


@triton.jit
def load_right(x, token, u, tokens, W: tl.constexpr, TRAITS: tl.constexpr, COLS: tl.constexpr):
    """float16 [WARPS, 32, 8]: of units u the columns of words W, or of units of 16 columns words 2 W and 2 W + 1."""
    WARPS: tl.constexpr = u.shape[2]
    have = ((u < COLS // TRAITS.unit) & (token < tokens))[:, :, :, None]
    if TRAITS.unit == 32:
        at = x + (token * COLS + u * 32)[:, :, :, None] + (8 * W + tl.arange(0, 8)[None, None, None, :])
        v = tl.reshape(tl.load(at, mask=have, other=0.0), [4, 8, WARPS, 2, 2, 2])  # h, p, e
        v = tl.permute(v, [2, 4, 0, 3, 5, 1])  # half of 16 columns, j, quarter, neighbours
    else:
        at = x + (token * COLS + u // 2 * 32 + u % 2 * 4)[:, :, :, None] + (16 * W + tl.arange(0, 4)[None, None, None, :])
        a = tl.load(at, mask=have, other=0.0)
        b = tl.load(at + 8, mask=have, other=0.0)
        v = tl.reshape(tl.join(a, b), [4, 8, WARPS, 2, 2, 2])  # p, e, h
        v = tl.permute(v, [2, 3, 0, 5, 4, 1])
    return tl.reshape(v, [WARPS, 32, 8])


@triton.jit(do_not_specialize=["tokens"])
def thin(
    w0, w1, w2, w3, x, out, partial, counters, rows, tokens,
    TRAITS: tl.constexpr, COLS: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr, WARPS: tl.constexpr,
    STEPS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr, STREAM: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """out [tokens, rows] float32 = x [tokens, COLS] float16 times W transposed."""
    NT: tl.constexpr = TOKENS // 8
    BLOCK: tl.constexpr = 16 * TILES
    program, split = tl.program_id(0), tl.program_id(1)
    if PDL:
        gdc_launch_dependents()
    j = opaque(tl.arange(0, 4), ASM)[:, None, None]
    g = opaque(tl.arange(0, 8), ASM)[None, :, None]
    warp = tl.arange(0, WARPS)[None, None, :]
    r = program * BLOCK + g
    first = split * STEPS * WARPS * 4
    u = first + (warp * 4 + j)
    held = ()
    for a in tl.static_range(AHEAD):
        held = held + (load_pair(w0, w1, w2, w3, r, u + a * WARPS * 4, TRAITS, COLS, TILES, STREAM),)
    if PDL:
        gdc_wait()
    acc = ()
    for i in tl.static_range(TILES * NT):
        acc = acc + (tl.zeros([WARPS, 16, 8], tl.float32),)
    token = g
    for step in tl.range(0, STEPS, AHEAD, num_stages=1):
        next_held = ()
        for a in tl.static_range(AHEAD):
            here = u + (step + a) * WARPS * 4
            tile = held[a]
            parts = ()
            for t in tl.static_range(2 * TILES):
                parts = parts + (decoded(tile[t], TRAITS, ASM),)
            next_held = next_held + (
                load_pair(w0, w1, w2, w3, r, here + AHEAD * WARPS * 4, TRAITS, COLS, TILES, STREAM),
            )
            for w in tl.static_range(TRAITS.unit // 8):
                right = ()
                for n in tl.static_range(NT):
                    right = right + (load_right(x, token + 8 * n, here, tokens, w, TRAITS, COLS),)
                new_acc = ()
                for t in tl.static_range(TILES):
                    left = tl.join(
                        fragment(parts[2 * t], w, TRAITS, ASM), fragment(parts[2 * t + 1], w, TRAITS, ASM)
                    )  # j, g, warp, e, p, h, row half
                    left = tl.reshape(tl.permute(left, [2, 6, 1, 4, 0, 5, 3]), [WARPS, 16, 32])
                    for n in tl.static_range(NT):
                        new_acc = new_acc + (tl.dot(left, right[n], acc[t * NT + n]),)
                acc = new_acc
        held = next_held
    LIFT: tl.constexpr = 0.5**TRAITS.lift
    MANY: tl.constexpr = TILES * NT
    total = tl.sum(tl.reshape(together(acc), [WARPS, 16, 8, MANY]), 0) * LIFT
    i = tl.arange(0, MANY)[None, None, :]
    row = program * BLOCK + tl.arange(0, 16)[:, None, None] + i // NT * 16
    column = tl.arange(0, 8)[None, :, None] + i % NT * 8
    keep = (row < rows) & (column < tokens)
    if SPLIT == 1:
        tl.store(out + column * rows + row, total, mask=keep)
    else:
        tl.store(partial + (split * tokens + column) * rows + row, total, mask=keep)
    if SPLIT > 1:
        tl.debug_barrier()
        before = tl.atomic_add(counters + program, 1, sem="acq_rel")
        if before == SPLIT - 1:
            tl.debug_barrier()
            tl.store(counters + program, 0)
            rr = program * BLOCK + tl.arange(0, BLOCK)[None, :]
            cc = tl.arange(0, TOKENS)[:, None]
            keep2 = (rr < rows) & (cc < tokens)
            whole = tl.zeros([TOKENS, BLOCK], tl.float32)
            for s in tl.static_range(SPLIT):
                whole += tl.load(partial + (s * tokens + cc) * rows + rr, mask=keep2, other=0.0)
            tl.store(out + cc * rows + rr, whole, mask=keep2)
