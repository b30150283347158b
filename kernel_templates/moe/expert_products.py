"""The products of a token's experts, whose matrices lie where the router's choice says.

Both kernels read the choice, or make it themselves of the router's logits (HERE), where it has no kernel of its own.
`chosen_gated` cannot ask for weights before the wait: their addresses are the result of the kernel before it. It lets
its dependents start only after that wait, when choice or logits are in memory for good; so `chosen_residual` reads them
at once, and asks for its weights before it waits for `chosen_gated`. The shared expert's weights do not depend on the
choice: its programs ask for them before the wait, as those of `product` do.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment, var-annotated"

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.dot import aim, load_tile, load_x, settle, tile_dot, unpack
from kernel_templates.cuda.experts import from_row
from kernel_templates.cuda.instructions import all_asked_for, opaque
from kernel_templates.cuda.lanes import row_places, to_lanes
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.product import X_AHEAD, multiply_gated, places
from kernel_templates.cuda.quantize import store_lanes
from kernel_templates.moe.choose import at_places, nth_expert, routed


@triton.jit
def chosen_gated(
    choice, g0, g1, g2, g3, u0, u1, u2, u3, s0, s1, s2, s3, t0, t1, t2, t3,
    values, high, low, scale, squares, norm, eps, out_values, out_high, out_low, out_scale, gate_bias, up_bias,
    shared_norm,
    ROWS: tl.constexpr, SHARED_ROWS: tl.constexpr, USED: tl.constexpr, TRAITS: tl.constexpr, UP_TRAITS: tl.constexpr,
    SHARED_TRAITS: tl.constexpr, SHARED_UP_TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr,
    COLS: tl.constexpr, SOURCE: tl.constexpr, SHARED_SOURCE: tl.constexpr, EACH: tl.constexpr, GROUPS: tl.constexpr,
    UNITS: tl.constexpr, CHUNKS: tl.constexpr, UP_CHUNKS: tl.constexpr, SHARED_CHUNKS: tl.constexpr,
    SHARED_UP_CHUNKS: tl.constexpr,
    STEPS: tl.constexpr, KEPT: tl.constexpr, AHEAD: tl.constexpr, SHARED_AHEAD: tl.constexpr, EVEN: tl.constexpr,
    SHARED_EVEN: tl.constexpr, STREAM: tl.constexpr, READY: tl.constexpr, GATE: tl.constexpr, HERE: tl.constexpr,
    EXPERTS: tl.constexpr, LANES: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`product.gated_product` of the expert choice[slot], or if HERE of that with the slot-th largest of the logits
    `choice`: ROWS rows of the matrices from its own first row on, to rows slot * ROWS ... of out. Programs (part,
    slot); the slot USED is the shared expert's, of SHARED_ROWS, which reads x times shared_norm."""
    part, slot = tl.program_id(0), tl.program_id(1)
    if SHARED_ROWS == 0 or slot < USED:
        if PDL:
            gdc_wait()
            gdc_launch_dependents()
        own = nth_expert(choice, slot, EXPERTS, LANES, ASM) if HERE else tl.load(choice + slot, cache_modifier=".cg")
        row = own.to(tl.int64) * ROWS
        g0, g1, g2, g3 = from_row(g0, g1, g2, g3, row, TRAITS, COLS)
        u0, u1, u2, u3 = from_row(u0, u1, u2, u3, row, UP_TRAITS, COLS)
        multiply_gated(
            part, g0, g1, g2, g3, u0, u1, u2, u3, values, high, low, scale, squares, norm, eps,
            out_values, out_high, out_low, out_scale, slot * ROWS, ROWS,
            None if gate_bias is None else gate_bias + row, None if up_bias is None else up_bias + row,
            TRAITS, UP_TRAITS, ACT, OUT_ACT, COLS, SOURCE, EACH, GROUPS, UNITS, CHUNKS, UP_CHUNKS, STEPS, KEPT, AHEAD,
            EVEN, STREAM, True, False, GATE, True, PDL, ASM,
        )  # fmt: skip
    else:
        multiply_gated(
            part, s0, s1, s2, s3, t0, t1, t2, t3, values, high, low, scale, squares, shared_norm, eps,
            out_values, out_high, out_low, out_scale, slot * ROWS, SHARED_ROWS, None, None,
            SHARED_TRAITS, SHARED_UP_TRAITS, ACT, OUT_ACT, COLS, SHARED_SOURCE, EACH, GROUPS, UNITS, SHARED_CHUNKS,
            SHARED_UP_CHUNKS, STEPS, KEPT, SHARED_AHEAD, SHARED_EVEN, False, False, READY, GATE, False, PDL, ASM,
        )  # fmt: skip


@triton.jit
def chosen_residual(
    logits, ids, weights, scales, w0, w1, w2, w3, s0, s1, s2, s3, values, high, low, scale,
    out_values, out_high, out_low, out_scale, out_squares, next_norm, bias,
    ROWS: tl.constexpr, FFN: tl.constexpr, SHARED_FFN: tl.constexpr, USED: tl.constexpr, TRAITS: tl.constexpr,
    SHARED_TRAITS: tl.constexpr, ACT: tl.constexpr, OUT_ACT: tl.constexpr, COLS: tl.constexpr, SOURCE: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, SHARED_CHUNKS: tl.constexpr,
    STEPS: tl.constexpr, KEPT: tl.constexpr, AHEAD: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr,
    EARLY: tl.constexpr, READY: tl.constexpr, ADD: tl.constexpr, HERE: tl.constexpr, EXPERTS: tl.constexpr,
    LANES: tl.constexpr, ROUTING: tl.constexpr, NORMALIZED: tl.constexpr, SCALE: tl.constexpr, SHARED: tl.constexpr,
    GATED: tl.constexpr, PLACES: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[r] += the sum over slots of weights[slot] (W[ids[slot]][r] . x[slot] + bias[ids[slot]][r]), quantized for the
    next kernel as out * next_norm; not ADD: as of `product.residual_product`.

    The rows r of all chosen experts are one long row of COLS = USED * FFN columns, of which a tile has units of one or
    of several: each lane's sum is of its own experts, times their weights, and rows are added up in one order. Behind
    them come the SHARED_FFN columns of the shared expert. HERE: ids and weights are made of the logits, as of
    `choose.routed`, and written by the first program; else they are read.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    first, r, u, g = places(tl.program_id(0), EACH, GROUPS, UNITS, STEPS, ASM)
    BOTH: tl.constexpr = CHUNKS + SHARED_CHUNKS
    TILES: tl.constexpr = STEPS * BOTH
    COUNT: tl.constexpr = FFN // TRAITS.unit
    if HERE:
        chosen, weight = routed(logits, scales, EXPERTS, LANES, USED, ROUTING, NORMALIZED, SCALE, SHARED, GATED)
    rows, ends, units, shares = (), (), (), ()
    for c in tl.static_range(CHUNKS):
        slot = (u + c * UNITS) // COUNT
        there = slot < USED
        if HERE:  # of few slots, so that the first tiles need not wait for the last choice
            row = at_places(chosen, slot, c * UNITS // COUNT, (c * UNITS + UNITS - 1) // COUNT) * ROWS
            share = at_places(weight, slot, c * UNITS // COUNT, (c * UNITS + UNITS - 1) // COUNT)
            share = tl.where(there, share, 0.0)
        else:
            row = tl.load(ids + slot, mask=there, other=0, cache_modifier=".cg") * ROWS
            share = tl.load(weights + slot, mask=there, other=0.0, cache_modifier=".cg")
        rows, ends = rows + (opaque(r + row, ASM),), ends + (row + ROWS,)
        units = units + (opaque(tl.where(there, u + c * UNITS - slot * COUNT, COUNT), ASM),)
        shares = shares + (share,)
    for _c in tl.static_range(SHARED_CHUNKS):
        rows, ends, units = rows + (r,), ends + (ROWS,), units + (u,)
        shares = shares + (weight[USED] if HERE else tl.load(weights + USED, cache_modifier=".cg"),)
    held = ()
    for t in tl.static_range(AHEAD):
        held = held + (
            row_tile(
                w0, w1, w2, w3, s0, s1, s2, s3, rows[t % BOTH], ends[t % BOTH], units[t % BOTH],
                t, TRAITS, SHARED_TRAITS, FFN, SHARED_FFN, EACH, GROUPS, UNITS, CHUNKS, BOTH, EVEN, STREAM,
            ),
        )  # fmt: skip
    norms, added = (), ()
    for s in tl.static_range(STEPS):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        if ADD:
            norms = norms + (tl.load(next_norm + at, mask=at < ROWS, other=0.0),)
        if bias is not None:
            total = at * 0.0
            for k in tl.static_range(USED):
                expert = chosen[k] if HERE else tl.load(ids + k, cache_modifier=".cg")
                share = weight[k] if HERE else tl.load(weights + k, cache_modifier=".cg")
                total += share * tl.load(bias + expert * ROWS + at, mask=at < ROWS, other=0.0)
            added = added + (total,)
    ready = ()
    for t in tl.static_range(AHEAD if READY else 0):
        ready = ready + (unpack(held[t], TRAITS if t % BOTH < CHUNKS else SHARED_TRAITS, ASM),)
        settle(ready[t], w0, TRAITS if t % BOTH < CHUNKS else SHARED_TRAITS, ASM)
    XS: tl.constexpr = BOTH if BOTH <= KEPT else X_AHEAD
    for c in tl.static_range(XS if XS <= CHUNKS else CHUNKS):
        aim(values, high, low, scale, g, u, TRAITS, ACT, FFN, c * UNITS, SOURCE, ASM)
    if PDL:
        gdc_wait()
    xs = ()
    for c in tl.static_range(XS):
        xs = xs + (
            row_vector(
                values, high, low, scale, g, u,
                c, TRAITS, SHARED_TRAITS, ACT, COLS, FFN, SHARED_FFN, UNITS, CHUNKS, BOTH, SOURCE, ASM,
            ),
        )  # fmt: skip
    before = ()
    for s in tl.static_range(STEPS if ADD else 0):
        at, once = row_places(first + s * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
        before = before + (tl.load(out_values + at, mask=at < ROWS, other=0.0),)
    all_asked_for(ASM)
    if PDL and not EARLY:
        gdc_launch_dependents()
    if HERE:
        place, first_one = tl.arange(0, PLACES), tl.program_id(0) == 0
        chosen, weight = at_places(chosen, place, 0, PLACES), at_places(weight, place, 0, PLACES)
        tl.store(ids + place, chosen, mask=first_one & (place < USED))
        tl.store(weights + place, weight, mask=first_one & (place < USED + SHARED))
    acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)
    for t in tl.static_range(TILES):
        if t + AHEAD < TILES:
            held = held + (
                row_tile(
                    w0, w1, w2, w3, s0, s1, s2, s3,
                    rows[(t + AHEAD) % BOTH], ends[(t + AHEAD) % BOTH], units[(t + AHEAD) % BOTH],
                    t + AHEAD, TRAITS, SHARED_TRAITS, FFN, SHARED_FFN, EACH, GROUPS, UNITS, CHUNKS, BOTH, EVEN, STREAM,
                ),
            )  # fmt: skip
        if BOTH > KEPT and t + XS < TILES:
            xs = xs + (
                row_vector(
                    values, high, low, scale, g, u,
                    t + XS, TRAITS, SHARED_TRAITS, ACT, COLS, FFN, SHARED_FFN, UNITS, CHUNKS, BOTH, SOURCE, ASM,
                ),
            )  # fmt: skip
        x = xs[t if BOTH > KEPT else t % BOTH]
        if t % BOTH < CHUNKS:
            parts = ready[t] if READY and t < AHEAD else unpack(held[t], TRAITS, ASM)
            acc += tile_dot(parts, x, TRAITS, ACT, ASM) * shares[t % BOTH]
        else:
            parts = ready[t] if READY and t < AHEAD else unpack(held[t], SHARED_TRAITS, ASM)
            acc += tile_dot(parts, x, SHARED_TRAITS, ACT, ASM) * shares[t % BOTH]
        if t % BOTH == BOTH - 1:
            at, once = row_places(first + t // BOTH * (EACH * GROUPS), EACH, GROUPS, UNITS, ASM)
            y = to_lanes(acc, EACH, GROUPS, UNITS, ASM)
            if bias is not None:
                y += added[t // BOTH]
            n = y
            if ADD:
                y += before[t // BOTH]
                n = y * norms[t // BOTH]
            once = once & (at < ROWS)
            store_lanes(out_values, out_high, out_low, out_scale, out_squares, at, once, y, n, EACH, OUT_ACT, True, ASM)
            acc = tl.zeros([UNITS, GROUPS, EACH], tl.float32)


@triton.jit
def row_tile(
    w0, w1, w2, w3, s0, s1, s2, s3, row, end, unit,
    T: tl.constexpr, TRAITS: tl.constexpr, SHARED_TRAITS: tl.constexpr, FFN: tl.constexpr, SHARED_FFN: tl.constexpr,
    EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, BOTH: tl.constexpr,
    EVEN: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Tile T of `chosen_residual`."""
    ROW: tl.constexpr = T // BOTH * (EACH * GROUPS)
    if T % BOTH < CHUNKS:
        return load_tile(w0, w1, w2, w3, row, end, unit, TRAITS, FFN, EACH, ROW, 0, EVEN, STREAM)
    else:
        UNIT: tl.constexpr = (T % BOTH - CHUNKS) * UNITS
        return load_tile(s0, s1, s2, s3, row, end, unit, SHARED_TRAITS, SHARED_FFN, EACH, ROW, UNIT, EVEN, False)


@triton.jit
def row_vector(
    values, high, low, scale, g, u,
    T: tl.constexpr, TRAITS: tl.constexpr, SHARED_TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr,
    FFN: tl.constexpr, SHARED_FFN: tl.constexpr, UNITS: tl.constexpr, CHUNKS: tl.constexpr, BOTH: tl.constexpr,
    SOURCE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """What tile T of `chosen_residual` is multiplied by."""
    if T % BOTH < CHUNKS:
        UNIT: tl.constexpr = T % BOTH * UNITS
        return load_x(values, high, low, scale, values, g * 0, u, TRAITS, ACT, COLS, UNIT, False, SOURCE, ASM, 0, FFN)
    else:
        SHARED_UNIT: tl.constexpr = (T % BOTH - CHUNKS) * UNITS
        return load_x(
            values, high, low, scale, values, g * 0, u,
            SHARED_TRAITS, ACT, SHARED_FFN, SHARED_UNIT, False, SOURCE, ASM, COLS // 32,
        )  # fmt: skip
