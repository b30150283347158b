"""The kernels around a matrix-vector product: rows and the best of them, rows added to the stream, gated rows.

All go the same way: the next kernel may start; the first AHEAD weight tiles are asked for; the previous kernel is
waited for; then the vector is read and multiplied, later tiles being asked for AHEAD tiles before their use. A thread
keeps a vector of up to KEPT chunks: all of it is read at once; of a longer one two chunks are read ahead. A program
has STEPS times GROUPS * EACH rows; a row is read in CHUNKS tiles of UNITS units (`dot` says what tile and unit are).
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, var-annotated"

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.dot import aim, load_tile, load_x, settle, tile_dot, unpack
from kernel_templates.cuda.gating import gated_with
from kernel_templates.cuda.instructions import all_asked_for, opaque, soft_cap
from kernel_templates.cuda.lanes import row_places, to_lanes
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import store_lanes

X_AHEAD = tl.constexpr(2)
"""Chunks of the vector, 20 registers each, that are read ahead where a thread does not keep all of them."""


@triton.jit
def places(
    program, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, STEPS: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """Where a program's tiles begin: its first row; of each group, [1, GROUPS, 1]; units [UNITS, 1, 1]; the groups'
    numbers [1, GROUPS, 1]."""
    first = program * (EACH * GROUPS * STEPS)
    g = tl.arange(0, GROUPS)[None, :, None]
    u = opaque(tl.arange(0, UNITS), ASM)[:, None, None]
    return first, opaque(first + g * EACH, ASM), u, g


@triton.jit
def load_squares(squares, g, u, COLS: tl.constexpr, UNITS: tl.constexpr):
    """A vector's squares, summed by groups of 8 by who wrote it: parts [UNITS, GROUPS, 1, 4]."""
    at = (u + g * 0)[:, :, :, None] * 4 + tl.arange(0, 4)[None, None, None, :]
    parts = ()
    for c in tl.static_range((COLS // 8 + 4 * UNITS - 1) // (4 * UNITS)):
        parts = parts + (tl.load(squares + at + c * UNITS * 4, mask=at + c * UNITS * 4 < COLS // 8, other=0.0),)
    return parts


@triton.jit
def rms_factor(parts, eps, COLS: tl.constexpr):
    """1 / rms [1, GROUPS] from the parts of `load_squares`; each warp for itself."""
    total = parts[0]
    for c in tl.static_range(1, len(parts)):
        total += parts[c]
    # Down to [GROUPS] and up again, not reshaped: so its layout is that of rows' totals.
    return tl.rsqrt(tl.sum(tl.sum(tl.sum(total, 3), 2), 0)[None, :] * (1.0 / COLS) + eps)


@triton.jit
def tiles_ahead(
    w0, w1, w2, w3, r, rows, u,
    TRAITS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr, BELOW: tl.constexpr, UNITS: tl.constexpr,
    CHUNKS: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Ask for the first AHEAD tiles. BELOW: rows from one step's to the next's."""
    held = ()
    for t in tl.static_range(AHEAD):
        held = held + (
            load_tile(
                w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH,
                t // CHUNKS * BELOW, t % CHUNKS * UNITS, EVEN, STREAM,
            ),
        )  # fmt: skip
    return held


@triton.jit
def vector_ahead(
    values, high, low, scale, norm, g, u,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, NORM: tl.constexpr, SOURCE: tl.constexpr,
    UNITS: tl.constexpr, CHUNKS: tl.constexpr, KEPT: tl.constexpr, ASM: tl.constexpr, FIRST: tl.constexpr = 0,
):  # fmt: skip
    """Ask for the vector from run FIRST on, or for two of its CHUNKS if they are more than KEPT."""
    xs = ()
    for c in tl.static_range(CHUNKS if CHUNKS <= KEPT else X_AHEAD):
        xs = xs + (
            load_x(values, high, low, scale, norm, g * 0, u, TRAITS, ACT, COLS, c * UNITS, NORM, SOURCE, ASM, FIRST),
        )
    return xs


@triton.jit
def rows_product(
    w0, w1, w2, w3, values, high, low, scale, squares, norm, eps, out, best_value, best_id, rows, bias,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    KEPT: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr,
    READY: tl.constexpr,
    SOFT_CAP: tl.constexpr, BEST: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[r] = W[r] . n, n being x * norm times x's RMS factor; plus bias[r], float32, unless it is None.

    SOFT_CAP: if not 0, out is SOFT_CAP * tanh(out / SOFT_CAP). BEST: also each program's largest, with its row: the
    smaller row of equals, NaN if one is NaN.
    """
    multiply_rows(
        tl.program_id(0), w0, w1, w2, w3, values, high, low, scale, squares, norm, eps, out, best_value, best_id, rows,
        bias, TRAITS, ACT, COLS, SOURCE, EACH, GROUPS, UNITS, CHUNKS, STEPS, KEPT, AHEAD, EVEN, STREAM, EARLY, READY,
        SOFT_CAP, BEST, PDL, ASM,
    )  # fmt: skip


@triton.jit
def two_rows_products(
    w0, w1, w2, w3, v0, v1, v2, v3, values, high, low, scale, squares, norm, eps, out, rows, below, bias,
    TRAITS: tl.constexpr, BELOW_TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, BELOW_CHUNKS: tl.constexpr,
    STEPS: tl.constexpr, KEPT: tl.constexpr, AHEAD: tl.constexpr, BELOW_AHEAD: tl.constexpr, EVEN: tl.constexpr,
    BELOW_EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr, READY: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """`rows_product` of a matrix of `rows` rows in one format, and one of `below` rows below it in another: of the
    programs the last ones take that."""
    program = tl.program_id(0)
    before = tl.cdiv(rows, EACH * GROUPS * STEPS)
    if program < before:
        multiply_rows(
            program, w0, w1, w2, w3, values, high, low, scale, squares, norm, eps, out, out, out, rows, bias,
            TRAITS, ACT, COLS, SOURCE, EACH, GROUPS, UNITS, CHUNKS, STEPS, KEPT, AHEAD, EVEN, STREAM, EARLY, READY,
            0.0, False, PDL, ASM,
        )  # fmt: skip
    else:
        multiply_rows(
            program - before, v0, v1, v2, v3, values, high, low, scale, squares, norm, eps, out + rows, out, out, below,
            None if bias is None else bias + rows, BELOW_TRAITS, ACT, COLS, SOURCE, EACH, GROUPS, UNITS, BELOW_CHUNKS,
            STEPS, KEPT, BELOW_AHEAD, BELOW_EVEN, STREAM, EARLY, READY, 0.0, False, PDL, ASM,
        )  # fmt: skip


@triton.jit
def multiply_rows(
    program, w0, w1, w2, w3, values, high, low, scale, squares, norm, eps, out, best_value, best_id, rows, bias,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    KEPT: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr,
    READY: tl.constexpr,
    SOFT_CAP: tl.constexpr, BEST: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """What a program of `rows_product` does; its stores to `best_value` and `best_id` are by its number."""
    if PDL and EARLY:
        gdc_launch_dependents()
    first, r, u, g = places(program, EACH, GROUPS, UNITS, STEPS, ASM)
    TILES: tl.constexpr = STEPS * CHUNKS
    held = tiles_ahead(
        w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH, EACH * GROUPS, UNITS, CHUNKS, AHEAD, EVEN, STREAM
    )  # fmt: skip
    added = ()
    for s in tl.static_range(0 if bias is None else STEPS):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        added = added + (tl.load(bias + at, mask=at < rows, other=0.0),)
    ready = ()
    for t in tl.static_range(AHEAD if READY else 0):
        ready = ready + (unpack(held[t], TRAITS, ASM),)
        settle(ready[t], w0, TRAITS, ASM)
    for c in tl.static_range(CHUNKS if CHUNKS <= KEPT else X_AHEAD):
        aim(values, high, low, scale, g, u, TRAITS, ACT, COLS, c * UNITS, SOURCE, ASM)
    if PDL:
        gdc_wait()
    XS: tl.constexpr = CHUNKS if CHUNKS <= KEPT else X_AHEAD
    xs = vector_ahead(
        values, high, low, scale, norm, g, u, TRAITS, ACT, COLS, True, SOURCE, UNITS, CHUNKS, KEPT, ASM
    )  # fmt: skip
    parts = load_squares(squares, g, u, COLS, UNITS)
    all_asked_for(ASM)
    if PDL and not EARLY:
        gdc_launch_dependents()
    factor = rms_factor(parts, eps, COLS)
    acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    if BEST:
        where, once = row_places(first, EACH, GROUPS, UNITS, ASM)
        best = tl.full(where.shape, float("-inf"), tl.float32)
    for t in tl.static_range(TILES):
        if t + AHEAD < TILES:
            held = held + (
                load_tile(
                    w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH,
                    (t + AHEAD) // CHUNKS * (EACH * GROUPS), (t + AHEAD) % CHUNKS * UNITS, EVEN, STREAM,
                ),
            )  # fmt: skip
        if CHUNKS > KEPT and t + XS < TILES:
            xs = xs + (
                load_x(
                    values, high, low, scale, norm, g * 0, u,
                    TRAITS, ACT, COLS, (t + XS) % CHUNKS * UNITS, True, SOURCE, ASM,
                ),
            )  # fmt: skip
        parts = ready[t] if READY and t < AHEAD else unpack(held[t], TRAITS, ASM)
        acc += tile_dot(parts, xs[t if CHUNKS > KEPT else t % CHUNKS], TRAITS, ACT, ASM)
        if t % CHUNKS == CHUNKS - 1:
            at, once = row_places(first + t // CHUNKS * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
            y = to_lanes(acc, EACH, GROUPS, UNITS, ASM) * factor
            if bias is not None:
                y += added[t // CHUNKS]
            if SOFT_CAP != 0.0:
                y = soft_cap(y, SOFT_CAP, ASM)
            tl.store(out + at, y, mask=once & (at < rows))
            if BEST:
                better = (at < rows) & ((y > best) | (y != y))
                best, where = tl.where(better, y, best), tl.where(better, at, where)
            acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    if BEST:
        broken = tl.max(tl.max((best != best).to(tl.int32), 0), 0)
        top = tl.max(tl.max(tl.where(best != best, float("-inf"), best), 0), 0)
        winner = tl.min(tl.min(tl.where(best == top, where, rows), 0), 0)
        one = tl.arange(0, 1)
        tl.store(best_value + program + one, tl.where(broken > 0, float("nan"), top))
        tl.store(best_id + program + one, tl.minimum(winner, rows - 1))


@triton.jit
def residual_product(
    w0, w1, w2, w3, values, high, low, scale, out_values, out_high, out_low, out_scale, out_squares, next_norm, rows,
    bias,
    TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    KEPT: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr,
    READY: tl.constexpr,
    ADD: tl.constexpr, FIRST: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[r] += W[r] . x, quantized for the next kernel as out * next_norm. EACH * GROUPS is a multiple of 8.

    FIRST: the run of the vector where x begins. Not ADD: out[r] = W[r] . x and its squares, for `post_norm`; nothing is
    quantized. bias: float32 [rows], which the product is added to, or None.
    """
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
    for c in tl.static_range(CHUNKS if CHUNKS <= KEPT else X_AHEAD):
        aim(values, high, low, scale, g, u, TRAITS, ACT, COLS, c * UNITS, SOURCE, ASM, FIRST)
    if PDL:
        gdc_wait()
    XS: tl.constexpr = CHUNKS if CHUNKS <= KEPT else X_AHEAD
    xs = vector_ahead(
        values, high, low, scale, values, g, u, TRAITS, ACT, COLS, False, SOURCE, UNITS, CHUNKS, KEPT, ASM, FIRST
    )  # fmt: skip
    before = ()
    for s in tl.static_range(STEPS if ADD else 0):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        before = before + (tl.load(out_values + at, mask=at < rows, other=0.0),)
    all_asked_for(ASM)
    if PDL and not EARLY:
        gdc_launch_dependents()
    acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    for t in tl.static_range(TILES):
        if t + AHEAD < TILES:
            held = held + (
                load_tile(
                    w0, w1, w2, w3, r, rows, u, TRAITS, COLS, EACH,
                    (t + AHEAD) // CHUNKS * (EACH * GROUPS), (t + AHEAD) % CHUNKS * UNITS, EVEN, STREAM,
                ),
            )  # fmt: skip
        if CHUNKS > KEPT and t + XS < TILES:
            xs = xs + (
                load_x(
                    values, high, low, scale, values, g * 0, u,
                    TRAITS, ACT, COLS, (t + XS) % CHUNKS * UNITS, False, SOURCE, ASM, FIRST,
                ),
            )  # fmt: skip
        parts = ready[t] if READY and t < AHEAD else unpack(held[t], TRAITS, ASM)
        acc += tile_dot(parts, xs[t if CHUNKS > KEPT else t % CHUNKS], TRAITS, ACT, ASM)
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


@triton.jit
def gated_product(
    g0, g1, g2, g3, u0, u1, u2, u3, values, high, low, scale, squares, norm, eps,
    out_values, out_high, out_low, out_scale, rows,
    TRAITS: tl.constexpr, UP_TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr, COLS: tl.constexpr,
    SOURCE: tl.constexpr, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr,
    CHUNKS: tl.constexpr, UP_CHUNKS: tl.constexpr, STEPS: tl.constexpr, KEPT: tl.constexpr, AHEAD: tl.constexpr,
    EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr, READY: tl.constexpr, GATE: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[r] = GATE(G[r] . n) * (U[r] . n), quantized; n is x * norm times x's RMS factor, GATE as of
    `gating.gated_with`."""
    if PDL and EARLY:
        gdc_launch_dependents()
    multiply_gated(
        tl.program_id(0), g0, g1, g2, g3, u0, u1, u2, u3, values, high, low, scale, squares, norm, eps,
        out_values, out_high, out_low, out_scale, 0, rows, None, None,
        TRAITS, UP_TRAITS, ACT, OUT_ACT, COLS, SOURCE, EACH, GROUPS, UNITS, CHUNKS, UP_CHUNKS, STEPS, KEPT, AHEAD,
        EVEN, STREAM, EARLY, READY, GATE, False, PDL, ASM,
    )  # fmt: skip


@triton.jit
def multiply_gated(
    program, g0, g1, g2, g3, u0, u1, u2, u3, values, high, low, scale, squares, norm, eps,
    out_values, out_high, out_low, out_scale, place, rows, gate_bias, up_bias,
    TRAITS: tl.constexpr, UP_TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr, COLS: tl.constexpr,
    SOURCE: tl.constexpr, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr,
    CHUNKS: tl.constexpr, UP_CHUNKS: tl.constexpr, STEPS: tl.constexpr, KEPT: tl.constexpr, AHEAD: tl.constexpr,
    EVEN: tl.constexpr, STREAM: tl.constexpr, EARLY: tl.constexpr, READY: tl.constexpr, GATE: tl.constexpr,
    WAITED: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """What a program of `gated_product` does once it has let EARLY dependents start; with biases float32 [rows] unless
    they are None. place: where row 0 lies in out. WAITED: the caller has waited for the previous kernel, since where
    the matrices lie is its result.

    EACH * GROUPS is a multiple of 8. The formats may differ. A step's tiles are the gate's and the up's in turn, and
    each chunk of the vector is read once; where a unit is not as long in both, all of the gate's and then the up's.
    """
    first, r, u, g = places(program, EACH, GROUPS, UNITS, STEPS, ASM)
    PAIRED: tl.constexpr = TRAITS.unit == UP_TRAITS.unit
    G: tl.constexpr = 1 if PAIRED else CHUNKS  # tiles of the gate one after the other
    BOTH: tl.constexpr = 2 if PAIRED else CHUNKS + UP_CHUNKS  # with those of the up that follow
    TILES: tl.constexpr = STEPS * (CHUNKS + UP_CHUNKS)
    held = ()
    for t in tl.static_range(AHEAD):
        held = held + (
            gated_tile(
                g0, g1, g2, g3, u0, u1, u2, u3, r, rows, u,
                t, TRAITS, UP_TRAITS, COLS, EACH, GROUPS, UNITS, CHUNKS, G, BOTH, EVEN, STREAM,
            ),
        )  # fmt: skip
    ready = ()
    for t in tl.static_range(AHEAD if READY else 0):
        ready = ready + (unpack(held[t], TRAITS if t % BOTH < G else UP_TRAITS, ASM),)
        settle(ready[t], g0, TRAITS if t % BOTH < G else UP_TRAITS, ASM)
    # Paired tiles read one vector: with the sums of its columns if either format has minimums.
    X_TRAITS: tl.constexpr = UP_TRAITS if PAIRED and UP_TRAITS.minimum else TRAITS
    XS: tl.constexpr = 1 if not PAIRED else CHUNKS if CHUNKS <= KEPT else X_AHEAD
    for c in tl.static_range(0 if WAITED else XS):
        aim(values, high, low, scale, g, u, X_TRAITS, ACT, COLS, c * UNITS, SOURCE, ASM)
    if PDL and not WAITED:
        gdc_wait()
    xs = ()
    for c in tl.static_range(XS):
        xs = xs + (load_x(values, high, low, scale, norm, g * 0, u, X_TRAITS, ACT, COLS, c * UNITS, True, SOURCE, ASM),)
    parts = load_squares(squares, g, u, COLS, UNITS)
    all_asked_for(ASM)
    if PDL and not EARLY:
        gdc_launch_dependents()
    factor = rms_factor(parts, eps, COLS)
    gate = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    acc = gate
    for t in tl.static_range(TILES):
        if t + AHEAD < TILES:
            held = held + (
                gated_tile(
                    g0, g1, g2, g3, u0, u1, u2, u3, r, rows, u,
                    t + AHEAD, TRAITS, UP_TRAITS, COLS, EACH, GROUPS, UNITS, CHUNKS, G, BOTH, EVEN, STREAM,
                ),
            )  # fmt: skip
        if PAIRED:
            if CHUNKS > KEPT and t % 2 == 0 and t // 2 + XS < STEPS * CHUNKS:
                xs = xs + (
                    load_x(
                        values, high, low, scale, norm, g * 0, u,
                        X_TRAITS, ACT, COLS, (t // 2 + XS) % CHUNKS * UNITS, True, SOURCE, ASM,
                    ),
                )  # fmt: skip
        elif t + 1 < TILES:  # one tile ahead
            xs = xs + (
                load_x(
                    values, high, low, scale, norm, g * 0, u,
                    TRAITS if (t + 1) % BOTH < G else UP_TRAITS, ACT, COLS,
                    ((t + 1) % BOTH if (t + 1) % BOTH < G else (t + 1) % BOTH - G) * UNITS, True, SOURCE, ASM,
                ),
            )  # fmt: skip
        x = xs[(t // 2 % CHUNKS if CHUNKS <= KEPT else t // 2) if PAIRED else t]
        if t % BOTH < G:
            parts = ready[t] if READY and t < AHEAD else unpack(held[t], TRAITS, ASM)
            gate += tile_dot(parts, x, TRAITS, ACT, ASM)
        else:
            parts = ready[t] if READY and t < AHEAD else unpack(held[t], UP_TRAITS, ASM)
            acc += tile_dot(parts, x, UP_TRAITS, ACT, ASM)
        if t % (CHUNKS + UP_CHUNKS) == CHUNKS + UP_CHUNKS - 1:
            at, once = row_places(first + t // (CHUNKS + UP_CHUNKS) * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
            z = to_lanes(gate, EACH, GROUPS, UNITS, ASM) * factor
            y = to_lanes(acc, EACH, GROUPS, UNITS, ASM) * factor
            if gate_bias is not None:
                z += tl.load(gate_bias + at, mask=at < rows, other=0.0)
                y += tl.load(up_bias + at, mask=at < rows, other=0.0)
            y = gated_with(z, y, GATE, ASM)
            once = once & (at < rows)
            at += place
            store_lanes(out_values, out_high, out_low, out_scale, out_scale, at, once, y, y, EACH, OUT_ACT, False, ASM)
            gate = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
            acc = gate


@triton.jit
def gated_tile(
    g0, g1, g2, g3, u0, u1, u2, u3, r, rows, u,
    T: tl.constexpr, TRAITS: tl.constexpr, UP_TRAITS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr,
    GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, G: tl.constexpr, BOTH: tl.constexpr,
    EVEN: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Tile T of the gate and the up: of BOTH one after the other G are the gate's."""
    PAIRED: tl.constexpr = G == 1 and BOTH == 2
    STEP: tl.constexpr = 2 * CHUNKS if PAIRED else BOTH
    ROW: tl.constexpr = T // STEP * (EACH * GROUPS)
    TURN: tl.constexpr = T % STEP // 2 if PAIRED else 0
    if T % BOTH < G:
        UNIT: tl.constexpr = (TURN + T % BOTH) * UNITS
        return load_tile(g0, g1, g2, g3, r, rows, u, TRAITS, COLS, EACH, ROW, UNIT, EVEN, STREAM)
    else:
        UP_UNIT: tl.constexpr = (TURN + T % BOTH - G) * UNITS
        return load_tile(u0, u1, u2, u3, r, rows, u, UP_TRAITS, COLS, EACH, ROW, UP_UNIT, EVEN, STREAM)
