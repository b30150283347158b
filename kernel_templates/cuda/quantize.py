"""Quantizing an output where it is produced: the last step of every kernel that feeds an integer product."""

import triton.language as tl

from kernel_templates.cuda import traits
from kernel_templates.cuda.instructions import opaque, reciprocal, round_to_int
from kernel_templates.cuda.lazy_triton import triton

BLOCK = tl.constexpr(traits.BLOCK)


@triton.jit
def byte_of(at):
    """Where the order of `vector` puts element `at`, in bits: signed divisions would be half of a kernel's end."""
    HALF: tl.constexpr = BLOCK // 2
    return (at & -BLOCK) | ((at & 4) * (HALF // 4)) | ((at >> 1) & (HALF - 4)) | (at & 3)


@triton.jit
def _largest_and_sum(a, b, c, d):
    return tl.maximum(a, c), b + d


@triton.jit
def store_lanes(
    values, high, low, scale, squares, at, once, v, n,
    EACH: tl.constexpr, ACT: tl.constexpr, SQUARES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Store v float32 [UNITS, GROUPS] as elements `at` of a vector, its quantized n = v * norm, and v^2 by groups of 8.

    Rows are where `lanes.to_lanes` leaves them, EACH for every group of lanes; once: the lanes that store, one a row.
    What 8 rows have in common goes from lane to lane, and through shared memory if EACH < 8. high, low: int32 pointers.
    """
    LANES: tl.constexpr = v.shape[0] if v.shape[0] < 32 else 32
    GROUPS: tl.constexpr = v.shape[1]
    WARPS: tl.constexpr = v.shape[0] // LANES  # that a row lies across
    BY_ROW: tl.constexpr = (
        [EACH, LANES // EACH, GROUPS * EACH // 8, 8 // EACH]
        if WARPS == 1
        else [WARPS, EACH, LANES // EACH, GROUPS * EACH // 8, 8 // EACH]
    )
    ROWS: tl.constexpr = len(BY_ROW) - 4  # the axis of a thread's rows
    tl.store(values + at, v, mask=once)
    if ACT != 0 or SQUARES:
        LIMIT: tl.constexpr = 127.0 if ACT == 8 else 32767.0
        largest, total = tl.reduce((tl.reshape(tl.abs(n), BY_ROW), tl.reshape(v * v, BY_ROW)), ROWS, _largest_and_sum)
        if EACH < 8:
            largest, total = tl.reduce((largest, total), ROWS + 2, _largest_and_sum)
            if WARPS == 1:
                largest, total = largest[:, :, None], total[:, :, None]
            else:
                largest, total = largest[:, :, :, None], total[:, :, :, None]
        head = once & ((at & 7) == 0)  # one lane a group
        if SQUARES:
            spread = tl.reshape(tl.broadcast_to(tl.expand_dims(total, ROWS), BY_ROW), v.shape)
            tl.store(squares + (at >> 3), spread, mask=head)
        if ACT != 0:
            spread = tl.reshape(tl.broadcast_to(tl.expand_dims(largest, ROWS), BY_ROW), v.shape)
            q = round_to_int(n * tl.where(spread > 1e-30, LIMIT * reciprocal(spread, ASM), 0.0))
            byte = byte_of(at)
            tl.store(high.to(tl.pointer_type(tl.int8)) + byte, ((q >> 8) if ACT == 16 else q).to(tl.int8), mask=once)
            if ACT == 16:
                tl.store(low.to(tl.pointer_type(tl.int8)) + byte, q.to(tl.int8), mask=once)
            tl.store(scale + (at >> 3), spread * (1.0 / LIMIT), mask=head)


@triton.jit
def group_places(program, SIZE: tl.constexpr, ASM: tl.constexpr):
    """Groups g of 8 and elements e of them, int32 [8, SIZE // 8] each, of a program that has SIZE elements of a vector:
    a group's lie in neighbouring lanes, by opaque numbers, so that no access is laid out in another way."""
    zero = tl.zeros([8, SIZE // 8], tl.int32)
    e = opaque(zero + tl.arange(0, 8)[:, None], ASM)
    g = opaque(zero + program * (SIZE // 8) + tl.arange(0, SIZE // 8)[None, :], ASM)
    return g, e


@triton.jit
def store_groups(
    values, high, low, scale, squares, g, e, v, n, inside, ACT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Store v float32 [8, G], elements e of groups g of a vector, its quantized n = v * norm, and v^2 by groups.

    g, e: int32, inside: mask, all [8, G]. ACT: 16 or 8 bits, 0 to leave the planes alone (consumers with float weights
    read the values). high, low: int32 pointers.
    """
    at, one = g * 8 + e, inside & (e == 0)
    tl.store(values + at, v, mask=inside)
    tl.store(squares + g, tl.broadcast_to(tl.sum(v * v, 0, keep_dims=True), v.shape), mask=one)
    if ACT != 0:
        LIMIT: tl.constexpr = 32767.0 if ACT == 16 else 127.0
        largest = tl.broadcast_to(tl.max(tl.abs(n), 0, keep_dims=True), v.shape)
        q = round_to_int(n * tl.where(largest > 1e-30, LIMIT * reciprocal(largest, ASM), 0.0))
        byte = byte_of(at)
        tl.store(high.to(tl.pointer_type(tl.int8)) + byte, ((q >> 8) if ACT == 16 else q).to(tl.int8), mask=inside)
        if ACT == 16:
            tl.store(low.to(tl.pointer_type(tl.int8)) + byte, q.to(tl.int8), mask=inside)
        tl.store(scale + g, largest * (1.0 / LIMIT), mask=one)
