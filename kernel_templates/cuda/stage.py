"""Weights copied into shared memory before a program waits for the previous kernel: one instruction a plane asks for
all of a program's rows, whatever their number, and no register waits for them.

A program's rows lie one after the other in each plane, so these are copies of consecutive bytes (Hopper and later). One
barrier in shared memory counts what has arrived. It lies in 128 bytes of its own, with which a program's shared memory
begins; Triton's own part, `room` bytes, and the rows follow.
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*made, pointer)`.
# ruff: noqa: RUF005

import triton
import triton.language as tl

SHARED_SPACE = tl.constexpr(3)
"""The number of the address space of pointers to staged planes."""
BARRIER = tl.constexpr(128)


@triton.constexpr_function
def room(threads: int, each: int) -> int:
    """Bytes that Triton has in front of the weights: for what warps exchange, more where a thread has one row."""
    return threads * (8 if each == 1 else 4)


@triton.jit
def copy_rows(
    p0, p1, p2, p3, first, ROWS: tl.constexpr, BYTES: tl.constexpr, ROOM: tl.constexpr, STREAM: tl.constexpr
):  # fmt: skip
    """Begin to copy ROWS rows of a packed matrix from `first` on, plane after plane; an int32 for `arrived`. BYTES: of
    a row, in each plane; ROWS of them are a multiple of 16. STREAM: they may leave the second-level cache first."""
    base = _expect(ROWS * total(BYTES))
    _copy(base, p0, p1, p2, p3, first, ROWS, BYTES, ROOM, 0, STREAM)
    tl.debug_barrier()  # nobody waits at a barrier that is not set up
    return base


@triton.jit
def copy_two(
    p0, p1, p2, p3, q0, q1, q2, q3, first, ROWS: tl.constexpr, BYTES: tl.constexpr, OTHER_BYTES: tl.constexpr,
    ROOM: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """`copy_rows` of two matrices, one behind the other."""
    base = _expect(ROWS * (total(BYTES) + total(OTHER_BYTES)))
    _copy(base, p0, p1, p2, p3, first, ROWS, BYTES, ROOM, 0, STREAM)
    _copy(base, q0, q1, q2, q3, first, ROWS, OTHER_BYTES, ROOM, ROWS * total(BYTES), STREAM)
    tl.debug_barrier()
    return base


@triton.jit
def _expect(nbytes):
    """Set up the barrier that waits for so many bytes; where it lies, the beginning of shared memory, int32."""
    return tl.inline_asm_elementwise(
        "{ .reg .pred p; .reg .b32 thread; .reg .b64 state; .shared .align 128 .b8 barrier[128]; mov.u32 $0, barrier; "
        "mov.u32 thread, %tid.x; setp.eq.u32 p, thread, 0; @p mbarrier.init.shared::cta.b64 [barrier], 1; "
        "@p fence.mbarrier_init.release.cluster; "
        "@p mbarrier.arrive.expect_tx.shared::cta.b64 state, [barrier], $1; }", "=r,r",
        [nbytes], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _copy(
    base, p0, p1, p2, p3, first, ROWS: tl.constexpr, BYTES: tl.constexpr, ROOM: tl.constexpr, OFFSET: tl.constexpr,
    STREAM: tl.constexpr,
):  # fmt: skip
    """To OFFSET bytes behind the place for the first row."""
    POLICY: tl.constexpr = "evict_first" if STREAM else "evict_normal"
    planes = (p0, p1, p2, p3)
    for i in tl.static_range(len(BYTES)):
        start = planes[i].to(tl.pointer_type(tl.int8)) + first.to(tl.int64) * BYTES[i]
        target = base + (BARRIER + ROOM + OFFSET + ROWS * _sum(BYTES, i))
        tl.inline_asm_elementwise(
            "{ .reg .pred p; .reg .b32 thread; .reg .b64 policy; mov.u32 thread, %tid.x; setp.eq.u32 p, thread, 0; "
            "createpolicy.fractional.L2::" + POLICY + ".b64 policy, 1.0; "
            "@p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
            "[$1], [$2], $3, [$4], policy; mov.b32 $0, 0; }", "=r,r,l,r,r",
            [target, start.to(tl.int64), ROWS * BYTES[i], base], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.constexpr_function
def _sum(numbers, count):
    return sum(numbers[:count])


@triton.constexpr_function
def total(numbers):
    return sum(numbers)


@triton.jit
def arrived(base):
    """`base` again, once all copies have arrived: what is read by it cannot be read before."""
    return tl.inline_asm_elementwise(
        "{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [$1], 0; @!p bra again; mov.b32 $0, $1; }",
        "=r,r", [base], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def planes(
    base, p0, p1, p2, p3, first, ROWS: tl.constexpr, BYTES: tl.constexpr, ROOM: tl.constexpr, OFFSET: tl.constexpr
):  # fmt: skip
    """Pointers into shared memory that are to rows `first` and later what p0, p1, ... are in global memory."""
    made = ()
    given = (p0, p1, p2, p3)
    for i in tl.static_range(len(BYTES)):
        start = base + (BARRIER + ROOM + OFFSET + ROWS * _sum(BYTES, i)) - first * BYTES[i]
        made = made + (start.to(tl.int64).to(tl.pointer_type(given[i].dtype.element_ty, SHARED_SPACE)),)
    for _ in tl.static_range(4 - len(BYTES)):
        made = made + (made[0],)
    return made


@triton.jit
def load(address):
    """What staged pointers point to: int32 of integers up to 32 bits, sign extended; int64; float16."""
    BITS: tl.constexpr = address.dtype.element_ty.primitive_bitwidth
    at = address.to(tl.int64).to(tl.int32)
    if BITS == 64:
        return tl.inline_asm_elementwise("ld.shared.b64 $0, [$1];", "=l,r", [at], dtype=tl.int64, is_pure=True, pack=1)
    elif BITS == 32:
        return tl.inline_asm_elementwise("ld.shared.b32 $0, [$1];", "=r,r", [at], dtype=tl.int32, is_pure=True, pack=1)
    else:
        if BITS == 16:
            word = tl.inline_asm_elementwise(
                "ld.shared.s16 $0, [$1];", "=r,r", [at], dtype=tl.int32, is_pure=True, pack=1
            )
        else:
            word = tl.inline_asm_elementwise(
                "ld.shared.s8 $0, [$1];", "=r,r", [at], dtype=tl.int32, is_pure=True, pack=1
            )
        if address.dtype.element_ty == tl.float16:
            return word.to(tl.int16).to(tl.float16, bitcast=True)
        else:
            return word.to(address.dtype.element_ty)


@triton.jit
def load_four(address):
    """Words [.., 4] from pointers to the first of each four."""
    a, b, c, d = tl.inline_asm_elementwise(
        "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,r", [address.to(tl.int64).to(tl.int32)],
        dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
    )  # fmt: skip
    shape: tl.constexpr = [address.shape[0], address.shape[1], address.shape[2], 4]
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), shape)
