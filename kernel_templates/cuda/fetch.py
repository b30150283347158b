"""Weights on their way into the second-level cache before a program asks for them: they hold no register, and memory
goes on while the program waits for the previous kernel."""

import triton
import triton.language as tl


@triton.jit
def fetch(address, nbytes, ASM: tl.constexpr):
    """Bytes from a pointer on that divides by 16, asked for by one thread of the program; none unless nbytes, int32, a
    multiple of 16, is positive. For Hopper and later; nothing in the interpreter."""
    if ASM:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 p, thread, 0; "
            "setp.gt.and.s32 p, $2, 0, p; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }", "=r,l,r",
            [address.to(tl.int64), nbytes], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def fetch_rows(p0, p1, p2, p3, first, rows, ROWS: tl.constexpr, BYTES: tl.constexpr, ASM: tl.constexpr):
    """Of a packed matrix, its ROWS rows from `first` on, as far as there are so many. BYTES: of a row, in each plane;
    a plane whose ROWS rows are not whole 16 bytes is left out."""
    planes = (p0, p1, p2, p3)
    for i in tl.static_range(len(BYTES)):
        if ROWS * BYTES[i] % 16 == 0:
            start = planes[i].to(tl.pointer_type(tl.int8)) + first.to(tl.int64) * BYTES[i]
            fetch(start, tl.minimum(rows - first, ROWS) * BYTES[i] & -16, ASM)


@triton.jit
def fetch_share(
    program, f0, f1, f2, f3, FROM: tl.constexpr, BYTES: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """Of what lies behind f0, f1, ..., a share of as many BYTES each by each program from number FROM on."""
    starts = (f0, f1, f2, f3)
    for i in tl.static_range(len(BYTES)):
        start = starts[i].to(tl.pointer_type(tl.int8)) + tl.maximum(program - FROM, 0).to(tl.int64) * BYTES[i]
        fetch(start, tl.where(program >= FROM, BYTES[i], 0), ASM)
