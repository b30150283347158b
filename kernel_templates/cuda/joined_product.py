"""A product with a vector in `parts`: attention's splits meet here, not in a kernel or a program of their own.

A product is linear, so each part is multiplied as it was quantized and its weight goes into the scales. What it costs
is the parts' loads, which are on their way together, and their products; what it saves are two trips through the
second-level cache, one after the other.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, var-annotated"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.dot import aim, load_tile, load_x, settle, tile_dot, unpack
from kernel_templates.cuda.instructions import all_asked_for, prefetch, reciprocal
from kernel_templates.cuda.lanes import row_places, to_lanes
from kernel_templates.cuda.product import X_AHEAD, places, tiles_ahead
from kernel_templates.cuda.quantize import store_lanes


@triton.jit
def _heads(g, u, UNIT: tl.constexpr, TRAITS: tl.constexpr, COLS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """The head of each scale of `load_x`, [UNITS, GROUPS, 1, 4], or of all of a unit's, [UNITS, GROUPS, 1, 1]."""
    column = (u + g)[:, :, :, None] * TRAITS.unit + UNIT * TRAITS.unit
    if TRAITS.kind == "" and HEAD_DIM % 32 != 0:
        column = (column & -32) + tl.arange(0, 4)[None, None, None, :] * 8
    return tl.minimum(column, COLS - 1) // HEAD_DIM


@triton.jit
def _load_logs(logs, head, PARTS: tl.constexpr):
    found = ()
    for s in tl.static_range(PARTS):
        found = found + (tl.load(logs + head * PARTS + s),)
    return found


@triton.jit
def _weights(logs, ASM: tl.constexpr):
    """The parts' weights, a tuple of their number."""
    top = logs[0]
    for s in tl.static_range(1, len(logs)):
        top = tl.maximum(top, logs[s])
    weights = ()
    total = top * 0.0
    for s in tl.static_range(len(logs)):
        weight = tl.exp2(logs[s] - top)
        total += weight
        weights = weights + (weight,)
    inverse = reciprocal(total, ASM)
    scaled = ()
    for s in tl.static_range(len(logs)):
        scaled = scaled + (weights[s] * inverse,)
    return scaled


@triton.jit
def _weighted(x, w, TRAITS: tl.constexpr):
    """What `load_x` gave, times w; zero where w is, whatever it gave."""
    if TRAITS.kind != "":
        return tl.where(w > 0, x[0] * w, 0.0), tl.where(w > 0, x[1] * w, 0.0)
    else:
        return x[0], x[1], x[2], x[3], tl.where(w > 0, x[4] * w, 0.0), tl.where(w > 0, x[5] * w, 0.0)


@triton.jit
def _load_part(
    values, high, low, scale, g, u, I: tl.constexpr, PARTS: tl.constexpr,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, UNITS: tl.constexpr, SOURCE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Chunk I // PARTS of part I % PARTS."""
    S: tl.constexpr = I % PARTS
    UNIT: tl.constexpr = I // PARTS * UNITS
    return load_x(
        values + S * COLS, high + S * (COLS // 4), low + S * (COLS // 4), scale + S * (COLS // 8), values, g * 0, u,
        TRAITS, ACT, COLS, UNIT, False, SOURCE, ASM,
    )  # fmt: skip


@triton.jit
def joined_residual_product(
    w0, w1, w2, w3, values, high, low, scale, logs, out_values, out_high, out_low, out_scale, out_squares, next_norm,
    rows, bias,
    TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    KEPT: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr,
    READY: tl.constexpr,
    ADD: tl.constexpr, PARTS: tl.constexpr, HEAD_DIM: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`product.residual_product` of x in PARTS parts, logs float32 [heads, PARTS], instead of x."""
    if PDL and EARLY:
        gdc_launch_dependents()
    first, r, u, g = places(tl.program_id(0), EACH, GROUPS, UNITS, STEPS, ASM)
    TILES: tl.constexpr = STEPS * CHUNKS
    held = tiles_ahead(
        w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH, EACH * GROUPS, UNITS, CHUNKS, AHEAD, EVEN, STREAM
    )  # fmt: skip
    norms = ()
    for s in tl.static_range(STEPS if ADD else 0):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        norms = norms + (tl.load(next_norm + at, mask=at < rows, other=0.0),)
    added = ()
    for s in tl.static_range(0 if bias is None else STEPS):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        added = added + (tl.load(bias + at, mask=at < rows, other=0.0),)
    ready = ()
    for t in tl.static_range(AHEAD if READY else 0):
        ready = ready + (unpack(held[t], TRAITS, ASM),)
        settle(ready[t], w0, TRAITS, ASM)
    XS: tl.constexpr = CHUNKS * PARTS if CHUNKS * PARTS <= KEPT else X_AHEAD
    heads = ()
    for c in tl.static_range(CHUNKS):
        heads = heads + (_heads(g * 0, u, c * UNITS, TRAITS, COLS, HEAD_DIM),)
        if ASM:
            prefetch(logs + heads[c] * PARTS)
        aim(values, high, low, scale, g, u, TRAITS, ACT, c * UNITS, SOURCE, ASM)
    if PDL:
        gdc_wait()
    asked = ()
    for c in tl.static_range(CHUNKS):
        asked = asked + (_load_logs(logs, heads[c], PARTS),)
    xs = ()
    for i in tl.static_range(XS):
        xs = xs + (
            _load_part(values, high, low, scale, g, u, i, PARTS, TRAITS, ACT, COLS, UNITS, SOURCE, ASM),
        )  # fmt: skip
    before = ()
    for s in tl.static_range(STEPS if ADD else 0):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        before = before + (tl.load(out_values + at, mask=at < rows, other=0.0),)
    all_asked_for(ASM)
    if PDL and not EARLY:
        gdc_launch_dependents()
    weights = ()
    for c in tl.static_range(CHUNKS):
        weights = weights + (_weights(asked[c], ASM),)
    acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    for t in tl.static_range(TILES):
        if t + AHEAD < TILES:
            held = held + (
                load_tile(
                    w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH,
                    (t + AHEAD) // CHUNKS * (EACH * GROUPS), (t + AHEAD) % CHUNKS * UNITS, EVEN, STREAM,
                ),
            )  # fmt: skip
        parts = ready[t] if READY and t < AHEAD else unpack(held[t], TRAITS, ASM)
        for s in tl.static_range(PARTS):
            if CHUNKS * PARTS > KEPT and t * PARTS + s + XS < TILES * PARTS:
                xs = xs + (
                    _load_part(
                        values, high, low, scale, g, u, (t * PARTS + s + XS) % (CHUNKS * PARTS), PARTS,
                        TRAITS, ACT, COLS, UNITS, SOURCE, ASM,
                    ),
                )  # fmt: skip
            x = xs[t * PARTS + s if CHUNKS * PARTS > KEPT else (t * PARTS + s) % (CHUNKS * PARTS)]
            acc += tile_dot(parts, _weighted(x, weights[t % CHUNKS][s], TRAITS), TRAITS, ACT, ASM)
        if t % CHUNKS == CHUNKS - 1:
            at, once = row_places(first + t // CHUNKS * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
            y = to_lanes(acc, EACH, GROUPS, UNITS, ASM)
            if bias is not None:
                y += added[t // CHUNKS]
            n = y
            if ADD:
                y += before[t // CHUNKS]
                n = y * norms[t // CHUNKS]
            once = once & (at < rows)
            store_lanes(out_values, out_high, out_low, out_scale, out_squares, at, once, y, n, EACH, OUT_ACT, True, ASM)
            acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
