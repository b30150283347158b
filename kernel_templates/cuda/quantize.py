"""Quantizing an output where it is produced: the last step of every kernel that feeds an integer product."""

import triton
import triton.language as tl

from kernel_templates.cuda.instructions import reciprocal, round_to_int


@triton.jit
def store_group(high, low, scale, group, n, e, inside, ACT: tl.constexpr):
    """Quantize groups of 8 values and store their words and scales in the order of `vector`.

    n: float32 [A, B, 8], a group's values along the last axis; e: int32 [1, 1, 8], its numbers 0..7; group, inside:
    [A, B], each group's number and whether this thread is to store it. high, low: int32 pointers; ACT: bits, 16 or 8.
    """
    LIMIT: tl.constexpr = 32767.0 if ACT == 16 else 127.0
    largest = tl.max(tl.abs(n), 2)
    inverse = tl.where(largest > 1e-30, LIMIT / largest, 0.0)
    q = round_to_int(n * inverse[:, :, None])
    at = group // 4 * 8 + group % 4
    shift = e % 4 * 8
    upper = (((q >> 8) if ACT == 16 else q) & 255) << shift
    tl.store(high + at, tl.sum(tl.where(e < 4, upper, 0), 2), mask=inside)
    tl.store(high + at + 4, tl.sum(tl.where(e < 4, 0, upper), 2), mask=inside)
    if ACT == 16:
        lower = (q & 255) << shift
        tl.store(low + at, tl.sum(tl.where(e < 4, lower, 0), 2), mask=inside)
        tl.store(low + at + 4, tl.sum(tl.where(e < 4, 0, lower), 2), mask=inside)
    tl.store(scale + group, largest * (1.0 / LIMIT), mask=inside)


@triton.jit
def _largest_and_sum(a, b, c, d):
    return tl.maximum(a, c), b + d


@triton.jit
def store_lanes(
    values, high, low, scale, squares, at, once, v, n,
    EACH: tl.constexpr, ACT: tl.constexpr, SQUARES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Store v float32 [LANES, GROUPS] as elements `at` of a vector, its quantized n = v * norm, and v^2 by groups of 8.

    Rows are where `lanes.to_lanes` leaves them, EACH for every group of lanes; once: the lanes that store, one a row.
    What 8 rows have in common goes from lane to lane, and through shared memory if EACH < 8. high, low: int32 pointers.
    """
    LANES: tl.constexpr = v.shape[0]
    GROUPS: tl.constexpr = v.shape[1]
    BY_ROW: tl.constexpr = [EACH, LANES // EACH, GROUPS * EACH // 8, 8 // EACH]
    tl.store(values + at, v, mask=once)
    if ACT != 0 or SQUARES:
        LIMIT: tl.constexpr = 127.0 if ACT == 8 else 32767.0
        largest, total = tl.reduce((tl.reshape(tl.abs(n), BY_ROW), tl.reshape(v * v, BY_ROW)), 0, _largest_and_sum)
        if EACH < 8:
            largest, total = tl.reduce((largest, total), 2, _largest_and_sum)
            largest, total = largest[:, :, None], total[:, :, None]
        head = once & ((at & 7) == 0)  # one lane a group
        if SQUARES:
            spread = tl.reshape(tl.broadcast_to(total[None], BY_ROW), v.shape)
            tl.store(squares + (at >> 3), spread, mask=head)
        if ACT != 0:
            spread = tl.reshape(tl.broadcast_to(largest[None], BY_ROW), v.shape)
            q = round_to_int(n * tl.where(spread > 1e-30, LIMIT * reciprocal(spread, ASM), 0.0))
            # The order of `vector`, in bits: signed divisions would be half of the kernel's last instructions.
            byte = (at & -32) | ((at & 4) << 2) | ((at >> 1) & 12) | (at & 3)
            tl.store(high.to(tl.pointer_type(tl.int8)) + byte, ((q >> 8) if ACT == 16 else q).to(tl.int8), mask=once)
            if ACT == 16:
                tl.store(low.to(tl.pointer_type(tl.int8)) + byte, q.to(tl.int8), mask=once)
            tl.store(scale + (at >> 3), spread * (1.0 / LIMIT), mask=head)


@triton.jit
def store_vector(
    values, high, low, scale, squares, first, v, n, count,
    SIZE: tl.constexpr, ACT: tl.constexpr, SQUARES: tl.constexpr,
):  # fmt: skip
    """Store v float32 [SIZE] as elements first.. of a vector of `count`, its quantized n = v * norm, and v^2 by groups.

    SIZE and first are multiples of 8. ACT: 16 or 8 bits, 0 to leave the planes alone (consumers with float weights read
    the values). high, low: int32 pointers.
    """
    i = first + tl.arange(0, SIZE)
    tl.store(values + i, v, mask=i < count)
    group = first // 8 + tl.arange(0, SIZE // 8)[None, :]
    inside = group < count // 8
    if SQUARES:
        by_group = tl.reshape(v, [1, SIZE // 8, 8])
        tl.store(squares + group, tl.sum(by_group * by_group, 2), mask=inside)
    if ACT != 0:
        e = tl.arange(0, 8)[None, None, :]
        store_group(high, low, scale, group, tl.reshape(n, [1, SIZE // 8, 8]), e, inside, ACT)
