"""Tiles of a packed matrix times a vector, by format: what a product kernel does between its loads and its stores.

A tile is [UNITS, GROUPS, EACH, 4] words of 32 bits: EACH rows one below the other lie in one thread's registers, GROUPS
such groups and UNITS units of a row lie across threads and warps (Triton fills the first axis with threads first). A
unit is the 16 bytes that one load brings: 32 columns of Q4_0, Q4_1 and Q6_K, 16 of Q8_0, 8 of F16 and BF16, 4 of F32.
With GROUPS * UNITS = 32 * warps, each thread has one group and one unit: the vector's words are loaded once per thread,
straight into the registers that need them, and no value is exchanged between threads before the sum over units (Triton
would otherwise go through shared memory: 16 barriers in a kernel of one microsecond).

Integer formats multiply by the planes of a `vector` with four-way byte products (dp4a); an int16 activation is two byte
planes, the lower one unsigned.
"""

import triton
import triton.language as tl

from kernel_templates.cuda.instructions import dp4a, dp4a_unsigned, prefetch, reciprocal, round_to_int


@triton.jit
def load_tile(
    p0, p1, p2, p3, r, rows, u,
    FORMAT: tl.constexpr, COLS: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """The planes of rows r [1, GROUPS, EACH], units u [UNITS, 1, 1] (opaque): a tuple whose parts the format decides.

    EVEN: no row lies past `rows`; STREAM: the weights will not be read again soon and may leave the cache first.
    """
    WIDE: tl.constexpr = 8 if FORMAT == "F16" or FORMAT == "BF16" else 32
    COUNT: tl.constexpr = COLS // (16 if FORMAT == "Q8_0" else (4 if FORMAT == "F32" else WIDE))
    RUNS: tl.constexpr = COLS // 32
    POLICY: tl.constexpr = "evict_first" if STREAM else ""
    inside = u < COUNT
    if not EVEN:
        inside = inside & (r < rows)
    at = r[:, :, :, None] * (COUNT * 4) + u[:, :, :, None] * 4 + tl.arange(0, 4)[None, None, None, :]
    q = tl.load(p0 + at, mask=inside[:, :, :, None], other=0, eviction_policy=POLICY)
    if FORMAT == "Q8_0":
        s = tl.load(p1 + r * RUNS + u // 2, mask=inside, other=0.0, eviction_policy=POLICY)
        return q, s
    elif FORMAT == "Q4_0":
        s = tl.load(p1 + r * RUNS + u, mask=inside, other=0.0, eviction_policy=POLICY)
        return q, s
    elif FORMAT == "Q4_1":
        s = tl.load(p1 + r * RUNS + u, mask=inside, other=0.0, eviction_policy=POLICY)
        m = tl.load(p2 + r * RUNS + u, mask=inside, other=0.0, eviction_policy=POLICY)
        return q, s, m
    elif FORMAT == "Q6_K":
        high = tl.load(p1 + r * RUNS + u, mask=inside, other=0, eviction_policy=POLICY)
        sub = tl.load(p2 + r * RUNS + u, mask=inside, other=0, eviction_policy=POLICY)
        s = tl.load(p3 + r * (COLS // 256) + u // 8, mask=inside, other=0.0)
        return q, high, sub, s
    else:
        return (q,)


@triton.jit
def load_x(
    values, high, low, scale, norm, g, u,
    FORMAT: tl.constexpr, ACT: tl.constexpr, COLS: tl.constexpr, NORM: tl.constexpr, SOURCE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """What units u [UNITS, 1, 1] of the vector are multiplied by, each part [UNITS, GROUPS, 1, 4].

    g: zeros [1, GROUPS, 1]. For float formats: values times norm if NORM, the second half of the unit's columns apart.
    For integer ones: high plane, high plane of the upper nibbles, low plane, low plane of the upper nibbles, scale, sum
    of the columns.
    SOURCE "planes": as the producer quantized the vector; "values": quantized here.
    """
    unit = (u + g)[:, :, :, None]
    w = tl.arange(0, 4)[None, None, None, :]
    if FORMAT == "F16" or FORMAT == "BF16" or FORMAT == "F32":
        COUNT: tl.constexpr = COLS // 4 if FORMAT == "F32" else COLS // 8
        have = unit < COUNT
        at = unit * (4 if FORMAT == "F32" else 8) + w
        a = tl.load(values + at, mask=have, other=0.0)
        b = a
        if FORMAT != "F32":
            b = tl.load(values + at + 4, mask=have, other=0.0)
        if NORM:
            a = a * tl.load(norm + at, mask=have, other=0.0)
            if FORMAT != "F32":
                b = b * tl.load(norm + at + 4, mask=have, other=0.0)
        return a, b
    elif FORMAT == "Q8_0":
        have = unit < COLS // 16
        if SOURCE == "planes":
            h = tl.load(high + unit * 4 + w, mask=have, other=0)
            x = h
            if ACT == 16:
                x = tl.load(low + unit * 4 + w, mask=have, other=0)
            s = tl.load(scale + (unit >> 1) * 4 + w, mask=have, other=0.0)
            return h, h, x, x, s, s
        else:
            ha, hb, la, lb, s = _quantize_words(values, norm, unit // 2 * 32 + w * 8, have, ACT, NORM, ASM)
            odd = unit % 2 == 1  # a unit has the first or the last four columns of each group of 8
            h = tl.where(odd, hb, ha)
            x = tl.where(odd, lb, la)
            return h, h, x, x, s, s
    else:
        have = unit < COLS // 32
        if SOURCE == "planes":
            at = unit * 8 + w
            ha = tl.load(high + at, mask=have, other=0)
            hb = tl.load(high + at + 4, mask=have, other=0)
            la, lb = ha, hb
            if ACT == 16:
                la = tl.load(low + at, mask=have, other=0)
                lb = tl.load(low + at + 4, mask=have, other=0)
            s = tl.load(scale + unit * 4 + w, mask=have, other=0.0)
        else:
            ha, hb, la, lb, s = _quantize_words(values, norm, unit * 32 + w * 8, have, ACT, NORM, ASM)
        total = s
        if FORMAT == "Q4_1":
            ones = ha * 0 + 0x01010101
            total = _combine(ones, ones, ha, hb, la, lb, ACT, True, ASM).to(tl.float32) * s
        return ha, hb, la, lb, s, total


@triton.jit
def aim(
    values, high, low, scale, g, u,
    FORMAT: tl.constexpr, ACT: tl.constexpr, SOURCE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Compute, before the wait, the addresses that `load_x` will read after it: a prefetch into the L2 cache, where
    the vector will be anyway, needs them now."""
    if ASM and SOURCE == "planes":
        unit = u + g * 0
        if FORMAT == "F16" or FORMAT == "BF16" or FORMAT == "F32":
            prefetch(values + unit * (4 if FORMAT == "F32" else 8))
        else:
            WORDS: tl.constexpr = 4 if FORMAT == "Q8_0" else 8
            prefetch(high + unit * WORDS)
            if ACT == 16:
                prefetch(low + unit * WORDS)
            prefetch(scale + (unit >> 1 if FORMAT == "Q8_0" else unit) * 4)


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
def unpack(tile, FORMAT: tl.constexpr):
    """A tile as it is multiplied: words of four signed bytes and float32 scales, or float32 words."""
    q = tile[0]
    if FORMAT == "F32":
        return (q.to(tl.float32, bitcast=True),)
    elif FORMAT == "BF16":
        return (q << 16).to(tl.float32, bitcast=True), (q & -0x10000).to(tl.float32, bitcast=True)
    elif FORMAT == "F16":
        a = (q & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        return a, (q >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif FORMAT == "Q8_0":
        return q, tile[1].to(tl.float32)
    elif FORMAT == "Q4_0":  # two's complement nibbles in the upper halves of bytes: sixteen times their value
        return (q << 4) & -0x0F0F0F10, q & -0x0F0F0F10, tile[1].to(tl.float32) * 0.0625
    elif FORMAT == "Q4_1":
        return q & 0x0F0F0F0F, (q >> 4) & 0x0F0F0F0F, tile[1].to(tl.float32), tile[2].to(tl.float32)
    else:  # Q6_K: six bits at the top of each byte, four times their value
        w = tl.arange(0, 4)[None, None, None, :]
        upper_a = tile[1].to(tl.int32)[:, :, :, None] << (6 - 2 * w)
        upper_b = (tile[1] >> 32).to(tl.int32)[:, :, :, None] << (6 - 2 * w)
        wa = ((q << 2) & 0x3C3C3C3C) | (upper_a & -0x3F3F3F40)
        wb = ((q >> 2) & 0x3C3C3C3C) | (upper_b & -0x3F3F3F40)
        pair, s = tile[2].to(tl.int32), tile[3].to(tl.float32) * 0.25
        return wa, wb, ((pair << 24) >> 24).to(tl.float32) * s, (pair >> 8).to(tl.float32) * s


@triton.jit
def settle(parts, address, FORMAT: tl.constexpr, ASM: tl.constexpr):
    """Have an unpacked tile computed here. ptxas would leave unpacking until after the wait that follows, where it
    costs time; it cannot if an instruction with an effect, a prefetch of `address` that next to never happens, depends
    on the result."""
    if ASM:
        # Of the parts, those that are [UNITS, GROUPS, EACH, 4].
        WORDS: tl.constexpr = 1 if FORMAT == "F32" or FORMAT == "Q8_0" else 2
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
def tile_dot(parts, x, FORMAT: tl.constexpr, ACT: tl.constexpr, ASM: tl.constexpr):
    """float32 [UNITS, GROUPS, EACH]: each unit's part of the rows' products with the vector, from an unpacked tile."""
    if FORMAT == "F32":
        return tl.sum(parts[0] * x[0], 3)
    elif FORMAT == "BF16" or FORMAT == "F16":
        return tl.sum(parts[0] * x[0] + parts[1] * x[1], 3)
    elif FORMAT == "Q8_0":
        dot = _combine(parts[0], parts[0], x[0], x[1], x[2], x[3], ACT, False, ASM).to(tl.float32)
        return tl.sum(dot * x[4], 3) * parts[1]
    else:
        dot = _combine(parts[0], parts[1], x[0], x[1], x[2], x[3], ACT, True, ASM).to(tl.float32) * x[4]
        if FORMAT == "Q4_0":
            return tl.sum(dot, 3) * parts[2]
        elif FORMAT == "Q4_1":
            return tl.sum(dot, 3) * parts[2] + tl.sum(x[5], 3) * parts[3]
        else:  # columns 0..15, which are words 0 and 1, have the first subscale
            first = tl.arange(0, 4)[None, None, None, :] < 2
            return tl.sum(dot * tl.where(first, parts[2][:, :, :, None], parts[3][:, :, :, None]), 3)
