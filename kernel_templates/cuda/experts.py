"""Matrices of all experts below each other: where one begins, and which pairs of tokens and experts a program has."""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import triton.language as tl

from kernel_templates.cuda.lazy_triton import triton


@triton.jit
def from_row(p0, p1, p2, p3, row, TRAITS: tl.constexpr, COLS: tl.constexpr):
    """The planes of a matrix of COLS columns from a row on, int64."""
    planes = (p0, p1, p2, p3)
    moved = ()
    for i in tl.static_range(4):
        if i == 0 and (TRAITS.kind != "" or TRAITS.bits & 12):
            moved = moved + (planes[i] + row * (COLS // TRAITS.unit * 4),)
        elif TRAITS.kind == "" and i == TRAITS.scale and TRAITS.group:
            moved = moved + (planes[i] + row * (COLS // TRAITS.size),)
        else:
            moved = moved + (planes[i] + row * (COLS // 32),)
    return moved


@triton.jit
def block_at(number, offsets, EXPERTS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """Block `number` of all experts' blocks of up to BLOCK pairs: its expert, its first pair among the sorted ones and
    its pairs, 0 where there are fewer blocks. offsets int32 [EXPERTS + 1]: where each expert's pairs begin."""
    e = tl.arange(0, LANES)
    begin = tl.load(offsets + e, mask=e < EXPERTS, other=0)
    end = tl.load(offsets + e + 1, mask=e < EXPERTS, other=0)
    blocks = (end - begin + (BLOCK - 1)) // BLOCK
    upto = tl.cumsum(blocks, 0)
    expert = tl.sum(((upto <= number) & (e < EXPERTS)).to(tl.int32), 0)
    own = e == expert
    first = tl.sum(tl.where(own, begin + (number - (upto - blocks)) * BLOCK, 0), 0)
    left = tl.sum(tl.where(own & (e < EXPERTS), end, 0), 0) - first
    return expert, first, tl.where(expert < EXPERTS, tl.minimum(left, BLOCK), 0)
