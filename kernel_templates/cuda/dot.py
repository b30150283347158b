"""Tiles of a packed matrix times a vector, by format: what a product kernel does between its loads and its stores.

A tile is [UNITS, GROUPS, EACH, 4] words of 32 bits: EACH rows one below the other lie in one thread's registers, GROUPS
such groups and UNITS units of a row lie across threads and warps (Triton fills the first axis with threads first). A
unit is the 16 bytes that one load of quants brings (`traits.Traits.unit` columns).
With GROUPS * UNITS = 32 * warps, each thread has one group and one unit: the vector's words are loaded once per thread,
straight into the registers that need them, and no value is exchanged between threads before the sum over units (Triton
would otherwise go through shared memory: 16 barriers in a kernel of one microsecond).

Quants are multiplied by the planes of a `vector` with four-way byte products (dp4a); an int16 activation is two byte
planes, the lower one unsigned.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import triton.language as tl

from kernel_templates.cuda.codes import byte_of_word, codebook_bytes, half_of, scale_of
from kernel_templates.cuda.instructions import dp4a, dp4a_unsigned, prefetch, reciprocal, round_to_int
from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def load_tile(
    p0, p1, p2, p3, r, rows, u,
    TRAITS: tl.constexpr, COLS: tl.constexpr, EACH: tl.constexpr, ROW: tl.constexpr, UNIT: tl.constexpr,
    EVEN: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """The planes of EACH rows from r + ROW on, r [1, GROUPS, 1], units u + UNIT, u [UNITS, 1, 1] (both opaque): a
    tuple, a part for each plane. UNIT is a multiple of 8.

    EVEN: no row lies past `rows`; STREAM: the weights will not be read again soon and may leave the cache first.
    """
    # Addresses are those of r and u and a number known here, which costs a load no instruction.
    COUNT: tl.constexpr = COLS // TRAITS.unit
    RUNS: tl.constexpr = COLS // 32
    POLICY: tl.constexpr = "evict_first" if STREAM else ""
    planes = (p0, p1, p2, p3)
    e = tl.arange(0, EACH)[None, None, :]
    inside = u + UNIT < COUNT
    if not EVEN:
        inside = inside & (r + (e + ROW) < rows)
    tile = ()
    if TRAITS.kind != "" or TRAITS.bits & 12:
        at = p0 + (r * (COUNT * 4) + u * 4)[:, :, :, None]
        at = at + ((e[:, :, :, None] + ROW) * (COUNT * 4) + UNIT * 4 + tl.arange(0, 4)[None, None, None, :])
        tile = tile + (tl.load(at, mask=inside[:, :, :, None], other=0, eviction_policy=POLICY),)
    if TRAITS.kind == "":
        MORE: tl.constexpr = len(tile)
        SCALE: tl.constexpr = TRAITS.scale
        for plane in tl.static_range(MORE, SCALE):  # higher bits of the quants, subscales
            at = planes[plane] + (r * RUNS + u) + ((e + ROW) * RUNS + UNIT)
            tile = tile + (tl.load(at, mask=inside, other=0, eviction_policy=POLICY),)
        if TRAITS.group:  # a scale that neighbouring units read too: it stays in the cache
            BLOCKS: tl.constexpr = COLS // TRAITS.size
            SHARE: tl.constexpr = TRAITS.size // 32
            at = planes[SCALE] + (r * BLOCKS + u // SHARE) + ((e + ROW) * BLOCKS + UNIT // SHARE)
            tile = tile + (tl.load(at, mask=inside, other=0),)
        else:
            LINE: tl.constexpr = TRAITS.line if COLS % TRAITS.block == 0 else 1
            RUN: tl.constexpr = UNIT * TRAITS.unit // TRAITS.block * TRAITS.line
            at = planes[SCALE] + (r * RUNS + run_of(u, TRAITS, LINE, UNIT)) + ((e + ROW) * RUNS + RUN)
            tile = tile + (tl.load(at, mask=inside, other=0, eviction_policy=POLICY),)
        if TRAITS.lowest >= 0:
            at = planes[TRAITS.lowest] + (r * RUNS + u) + ((e + ROW) * RUNS + UNIT)
            tile = tile + (tl.load(at, mask=inside, other=0, eviction_policy=POLICY),)
    return tile


@triton.jit
def run_of(u, TRAITS: tl.constexpr, LINE: tl.constexpr, UNIT: tl.constexpr):
    """The run of 32 columns that units u + UNIT have, or are halves of, less those in UNIT's whole lines: what these
    add to an address is known when compiling and costs no instruction. LINE: as of `vector.line_runs`."""
    if TRAITS.unit == 16:
        at = u + UNIT % (2 * TRAITS.line)
        return (at & (-2 * LINE)) >> 1 | at & (LINE - 1)
    else:
        return u


@triton.jit
def first_halves(run, LINE: tl.constexpr):
    """The first of four words that are the first halves of a run; the second ones are 4 * LINE words behind."""
    return (run + (run & -LINE)) * 4


@triton.jit
def unit_words(u, TRAITS: tl.constexpr, LINE: tl.constexpr, UNIT: tl.constexpr, FIRST: tl.constexpr):
    """Where units u + UNIT of quants begin in a vector's planes, in words, less the whole lines of UNIT and of FIRST,
    the run where the matrix's columns begin."""
    if TRAITS.unit == 16 and TRAITS.line == LINE and FIRST % TRAITS.line == 0:
        # Units follow each other as in the planes.
        return (u + UNIT % (2 * TRAITS.line)) * 4
    else:
        at = first_halves(run_of(u, TRAITS, LINE, UNIT) + FIRST % TRAITS.line, TRAITS.line)
        if TRAITS.unit == 16:
            at += tl.where(in_second_half(u, LINE, UNIT), 4 * TRAITS.line, 0)
        return at


@triton.jit
def in_second_half(u, LINE: tl.constexpr, UNIT: tl.constexpr):
    """Whether units u + UNIT of 16 columns are the second half of each group of 8 in their run."""
    return ((u + UNIT) & LINE) != 0


@triton.jit
def load_x(
    values, high, low, scale, norm, g, u,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, NORM: tl.constexpr,
    SOURCE: tl.constexpr, ASM: tl.constexpr, FIRST: tl.constexpr = 0, ROW_COLS: tl.constexpr = 0,
):  # fmt: skip
    """What units u + UNIT, u [UNITS, 1, 1], of the vector are multiplied by, each part [UNITS, GROUPS, 1, 4].

    g: zeros [1, GROUPS, 1]. For floats: values times norm if NORM, the second half of the unit's columns apart.
    For quants: high plane, high plane of the second half's columns, low plane, low plane of those, scale, sum of the
    columns.
    SOURCE "planes": as the producer quantized the vector; "values": quantized here. FIRST: the run of the vector where
    the COLS columns begin. ROW_COLS: columns of a row of the matrix, where those of several rows are the vector's.
    """
    unit = (u + g)[:, :, :, None]
    w = tl.arange(0, 4)[None, None, None, :]
    have = unit + UNIT < COLS // TRAITS.unit
    BEFORE: tl.constexpr = UNIT * TRAITS.unit // TRAITS.block * TRAITS.line + FIRST // TRAITS.line * TRAITS.line
    LINE: tl.constexpr = TRAITS.line if (ROW_COLS if ROW_COLS > 0 else COLS) % TRAITS.block == 0 else 1
    if TRAITS.kind != "":
        at, more = unit * TRAITS.unit, w + (UNIT * TRAITS.unit + FIRST * 32)
        a = tl.load(values + at + more, mask=have, other=0.0)
        b = a
        if TRAITS.unit == 8:
            b = tl.load(values + at + (more + 4), mask=have, other=0.0)
        if NORM:
            a = a * tl.load(norm + at + more, mask=have, other=0.0)
            if TRAITS.unit == 8:
                b = b * tl.load(norm + at + (more + 4), mask=have, other=0.0)
        return a, b
    else:
        run = (run_of(u, TRAITS, LINE, UNIT) + FIRST % TRAITS.line + g)[:, :, :, None]
        if SOURCE == "planes":
            at = (unit_words(u, TRAITS, LINE, UNIT, FIRST) + g)[:, :, :, None]
            HALF: tl.constexpr = 4 * TRAITS.line  # words to the second halves
            ha = tl.load(high + at + (w + BEFORE * 8), mask=have, other=0)
            hb = ha
            if TRAITS.unit == 32:
                hb = tl.load(high + at + (w + BEFORE * 8 + HALF), mask=have, other=0)
            la, lb = ha, hb
            if ACT == 16:
                la = tl.load(low + at + (w + BEFORE * 8), mask=have, other=0)
                lb = la
                if TRAITS.unit == 32:
                    lb = tl.load(low + at + (w + BEFORE * 8 + HALF), mask=have, other=0)
            s = tl.load(scale + run * 4 + (w + BEFORE * 4), mask=have, other=0.0)
        else:
            ha, hb, la, lb, s = _quantize_words(values, norm, (run + BEFORE) * 32 + w * 8, have, ACT, NORM, ASM)
            if TRAITS.unit == 16:
                second = in_second_half(unit, LINE, UNIT)
                ha = tl.where(second, hb, ha)
                la = tl.where(second, lb, la)
                hb, lb = ha, la
        total = s
        if TRAITS.minimum:
            ones = ha * 0 + 0x01010101
            total = _combine(ones, ones, ha, hb, la, lb, ACT, True, ASM).to(tl.float32) * s
        return ha, hb, la, lb, s, total


@triton.jit
def aim(
    values, high, low, scale, g, u,
    TRAITS: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, UNIT: tl.constexpr, SOURCE: tl.constexpr,
    ASM: tl.constexpr, FIRST: tl.constexpr = 0,
):  # fmt: skip
    """Compute, before the wait, the addresses that `load_x` will read after it: a prefetch into the L2 cache, where
    the vector will be anyway, needs them now."""
    if ASM and SOURCE == "planes":
        unit = u + g * 0
        if TRAITS.kind != "":
            prefetch(values + unit * TRAITS.unit + (UNIT * TRAITS.unit + FIRST * 32))
        else:
            BEFORE: tl.constexpr = UNIT * TRAITS.unit // TRAITS.block * TRAITS.line + FIRST // TRAITS.line * TRAITS.line
            LINE: tl.constexpr = TRAITS.line if COLS % TRAITS.block == 0 else 1
            at = unit_words(u, TRAITS, LINE, UNIT, FIRST) + g * 0
            prefetch(high + at + BEFORE * 8)
            if ACT == 16:
                prefetch(low + at + BEFORE * 8)
            prefetch(scale + (run_of(u, TRAITS, LINE, UNIT) + FIRST % TRAITS.line + g * 0) * 4 + BEFORE * 4)


@triton.jit
def _quantize_words(values, norm, e, have, ACT: tl.constexpr, NORM: tl.constexpr, ASM: tl.constexpr):
    """Groups of 8 values from e on, quantized as by `quantize.store_groups`: words of the first four, of the last."""
    largest = tl.abs(e * 0.0)
    for j in tl.static_range(8):
        x = tl.load(values + e + j, mask=have, other=0.0)
        if NORM:
            x = x * tl.load(norm + e + j, mask=have, other=0.0)
        largest = tl.maximum(largest, tl.abs(x))
    LIMIT: tl.constexpr = 32767.0 if ACT == 16 else 127.0
    inverse = tl.where(largest > 1e-30, LIMIT * reciprocal(largest, ASM), 0.0)
    ha, hb, la, lb = e * 0, e * 0, e * 0, e * 0
    for j in tl.static_range(8):  # the second reading comes from the first-level cache
        x = tl.load(values + e + j, mask=have, other=0.0)
        if NORM:
            x = x * tl.load(norm + e + j, mask=have, other=0.0)
        q = round_to_int(x * inverse)
        h = (((q >> 8) if ACT == 16 else q) & 255) << (8 * (j % 4))
        x = (q & 255) << (8 * (j % 4))
        if j < 4:
            ha, la = ha | h, la | x
        else:
            hb, lb = hb | h, lb | x
    return ha, hb, la, lb, largest * (1.0 / LIMIT)


@triton.jit
def _combine(wa, wb, ha, hb, la, lb, ACT: tl.constexpr, TWO: tl.constexpr, ASM: tl.constexpr):
    """Integer products of weight words with activation words: 256 * high + low for int16, high alone for int8."""
    ha, zero = tl.broadcast(ha, wa * 0)
    total = dp4a(wa, ha, zero, ASM)
    if TWO:
        hb, _ = tl.broadcast(hb, wa)
        total = dp4a(wb, hb, total, ASM)
    if ACT == 16:
        la, _ = tl.broadcast(la, wa)
        total = dp4a_unsigned(wa, la, total << 8, ASM)
        if TWO:
            lb, _ = tl.broadcast(lb, wa)
            total = dp4a_unsigned(wb, lb, total, ASM)
    return total


@triton.jit
def unpack(tile, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """A tile as it is multiplied: words of four signed bytes and float32 scales, or float32 words.

    Of quants: words of the first half of the columns and of the second (of bytes there is one half), what products are
    multiplied by, for each group in a run, and what is added, for each group.
    """
    if TRAITS.kind == "f32":
        return (tile[0].to(tl.float32, bitcast=True),)
    elif TRAITS.kind == "bf16":
        return (tile[0] << 16).to(tl.float32, bitcast=True), (tile[0] & -0x10000).to(tl.float32, bitcast=True)
    elif TRAITS.kind == "f16":
        return half_of(tile[0], 0), half_of(tile[0], 1)
    elif TRAITS.bits == 8:
        return tile[0], scale_of(tile[1])
    elif TRAITS.codebook is not None:
        CODEBOOK: tl.constexpr = TRAITS.codebook
        return codebook_bytes(tile[0], CODEBOOK, ASM) + unpack_scales(tile, TRAITS)
    else:
        return quant_words(tile, TRAITS) + unpack_scales(tile, TRAITS)


@triton.jit
def quant_words(tile, TRAITS: tl.constexpr):
    """Words of both halves of the columns. Two's complement lies at the top of its byte: 2^lift times its value."""
    w = tl.arange(0, 4)[None, None, None, :]
    if TRAITS.bits & 2:
        pairs_a = _pairs_of_word(tile[TRAITS.pairs].to(tl.int32)[:, :, :, None], w, TRAITS)
        pairs_b = _pairs_of_word((tile[TRAITS.pairs] >> 32).to(tl.int32)[:, :, :, None], w, TRAITS)
    if TRAITS.bits & 4:
        a = _shifted(tile[0], TRAITS.lift) & TRAITS.nibble_mask
        if TRAITS.bits & 2:
            a = a | (pairs_a & TRAITS.pair_mask)
        b = _shifted(tile[0], TRAITS.lift - 4) & TRAITS.nibble_mask
        if TRAITS.bits & 2:
            b = b | (pairs_b & TRAITS.pair_mask)
    else:
        a, b = pairs_a & TRAITS.pair_mask, pairs_b & TRAITS.pair_mask
    if TRAITS.bits & 1:
        ones = tile[TRAITS.ones][:, :, :, None] >> w
        a = a | ((ones & 0x01010101) << TRAITS.one_at)
        b = b | (((ones >> 4) & 0x01010101) << TRAITS.one_at)
    return a, b


@triton.jit
def _pairs_of_word(words, w, TRAITS: tl.constexpr):
    """Words of four times four pairs of bits: pair w of each byte at its place in a quant."""
    if TRAITS.pair_at == 6:
        return words << (6 - 2 * w)
    else:
        return _shifted(words >> (2 * w), TRAITS.pair_at)


@triton.jit
def _shifted(words, LEFT: tl.constexpr):
    if LEFT > 0:
        return words << LEFT
    elif LEFT < 0:
        return words >> -LEFT
    else:
        return words


@triton.jit
def unpack_scales(tile, TRAITS: tl.constexpr, UNLIFT: tl.constexpr = True):
    """float32 [UNITS, GROUPS, EACH]: scales for each group in a run, then minimums for each. UNLIFT: the scales are
    those of lifted quants."""
    if TRAITS.group == 0:
        s = scale_of(tile[TRAITS.scale])
        if TRAITS.lift and UNLIFT:
            s = s * TRAITS.unlift
        return (s, tile[TRAITS.lowest].to(tl.float32)) if TRAITS.minimum else (s,)
    else:
        codes = tile[TRAITS.codes].to(tl.int32)
        s = half_of(tile[TRAITS.scale], 0) if TRAITS.minimum else scale_of(tile[TRAITS.scale])
        if TRAITS.lift and UNLIFT:
            s = s * TRAITS.unlift
        GROUPS: tl.constexpr = 32 // TRAITS.group
        BYTES: tl.constexpr = GROUPS * (2 if TRAITS.minimum else 1)
        factors = ()
        for i in tl.static_range(GROUPS):
            factors = factors + (byte_of_word(codes, i, BYTES).to(tl.float32) * s,)
        if TRAITS.minimum:
            m = half_of(tile[TRAITS.scale], 1) * -1.0  # a minus sign would be an instruction
            for i in tl.static_range(GROUPS, BYTES):
                factors = factors + (byte_of_word(codes, i, BYTES).to(tl.float32) * m,)
        return factors


@triton.jit
def settle(parts, address, TRAITS: tl.constexpr, ASM: tl.constexpr):
    """Have an unpacked tile computed here. ptxas would leave unpacking until after the wait that follows, where it
    costs time; it cannot if an instruction with an effect, a prefetch of `address` that next to never happens, depends
    on the result."""
    if ASM:
        # Of the parts, those that are [UNITS, GROUPS, EACH, 4].
        WORDS: tl.constexpr = 1 if TRAITS.kind == "f32" or TRAITS.unit == 16 else 2
        mixed = tl.xor_sum(parts[0].to(tl.int32, bitcast=True), 3)
        if WORDS == 2:
            mixed = mixed ^ tl.xor_sum(parts[1].to(tl.int32, bitcast=True), 3)
        for i in tl.static_range(WORDS, len(parts)):
            mixed = mixed ^ parts[i].to(tl.int32, bitcast=True)
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.eq.s32 p, $1, 19088743; @p prefetch.global.L2 [$2]; mov.b32 $0, $1; }", "=r,r,l",
            [tl.xor_sum(mixed, 2), address.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def tile_dot(parts, x, TRAITS: tl.constexpr, ACT: tl.constexpr, ASM: tl.constexpr):
    """float32 [UNITS, GROUPS, EACH]: each unit's part of the rows' products with the vector, from an unpacked tile."""
    if TRAITS.kind == "f32":
        return tl.sum(parts[0] * x[0], 3)
    elif TRAITS.kind != "":
        return tl.sum(parts[0] * x[0] + parts[1] * x[1], 3)
    elif TRAITS.bits == 8:
        dot = _combine(parts[0], parts[0], x[0], x[1], x[2], x[3], ACT, False, ASM).to(tl.float32)
        return tl.sum(dot * x[4], 3) * parts[1]
    else:
        dot = _combine(parts[0], parts[1], x[0], x[1], x[2], x[3], ACT, True, ASM).to(tl.float32) * x[4]
        if TRAITS.group == 16:
            first, second = _halves(dot)
            out = first * parts[2] + second * parts[3]
            if TRAITS.minimum:
                first, second = _halves(x[5])
                out += first * parts[4] + second * parts[5]
        else:
            out = tl.sum(dot, 3) * parts[2]
            if TRAITS.minimum:
                out = out + tl.sum(x[5], 3) * parts[3]
        return out


@triton.jit
def _halves(words):
    """[.., 4] -> sums of words 0 and 1, which are columns 0..15 of a run, and of words 2 and 3."""
    UNITS: tl.constexpr = words.shape[0]
    GROUPS: tl.constexpr = words.shape[1]
    return tl.split(tl.sum(tl.reshape(words, [UNITS, GROUPS, words.shape[2], 2, 2]), 4))
