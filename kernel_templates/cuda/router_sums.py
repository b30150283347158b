"""A router's product added up by the programs that make the vector it reads, instead of by a kernel that waits for it.

    logit[e] = factor * sum over rows of W[e, row] x[row] norm[row],  factor = 1 / sqrt(mean of x^2 + eps)

The factor is one number and comes last, so each program adds what its own rows give: to a sum of each expert, and to
those of x^2 behind them. Sums are fixed-point numbers of 64 bits, whose order does not matter: a token's logits are the
same at every run. There are several copies of them, or all programs would meet in a few lines of the second-level
cache; whoever reads them adds the copies. They are zeros before a token's first layer, and again after each layer's
readers (`product.rows_product`).
"""

# Tuples grow in loops that are unrolled when compiling: Triton has no `(*held, tile)`, mypy no such tuples.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from kernel_templates.cuda.instructions import opaque
from kernel_templates.cuda.lazy_triton import triton

SUM_UNIT = tl.constexpr(2.0**-32)
"""Of the experts' sums: a part of up to 2^31, with a rounding that float32 does not see of numbers above 0.004."""
SQUARES_UNIT = tl.constexpr(2.0**-24)
PLACES = tl.constexpr(16)
"""Sums of squares, by rows: a line of the cache. A program's rows need not meet before they are added."""


@triton.constexpr_function
def power_of_two(n):
    """The next one: Triton's blocks have no other sizes."""
    return 1 << (n - 1).bit_length()


@triton.jit
def router_tiles(
    router, first, g, u, rows,
    EXPERTS: tl.constexpr, EACH: tl.constexpr, UNITS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The router's columns `first` + g * EACH ... for all experts, where a thread has experts u, u + UNITS, ... and the
    EACH rows of x that it has of its tiles: a tuple of float32 [UNITS, GROUPS, K, 4], or fewer, of neighbouring rows,
    which are a load each. g, u as of `product.places`; router: int32 or float32 [EXPERTS, rows]."""
    K: tl.constexpr = (power_of_two(EXPERTS) + UNITS - 1) // UNITS
    WIDE: tl.constexpr = EACH if EACH < 4 else 4
    e = u[:, :, :, None] + tl.arange(0, K)[None, None, :, None] * UNITS
    tiles = ()
    for piece in tl.static_range(EACH // WIDE):
        row = (first + g * EACH)[:, :, :, None] + (tl.arange(0, WIDE)[None, None, None, :] + piece * WIDE)
        inside = e < EXPERTS
        if not EVEN:
            inside = inside & (row < rows)
        tiles = tiles + (tl.load(router + (e * rows + row), mask=inside, other=0).to(tl.float32, bitcast=True),)
    return tiles


@triton.jit
def router_part(tiles, n, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, ASM: tl.constexpr):
    """What rows n [UNITS, GROUPS], as `lanes.to_lanes` leaves them, give: float32 [UNITS, GROUPS, K]."""
    part = _piece(tiles, n, 0, EACH, GROUPS, UNITS, ASM)
    for piece in tl.static_range(1, len(tiles)):
        part += _piece(tiles, n, piece, EACH, GROUPS, UNITS, ASM)
    return part


@triton.jit
def _piece(
    tiles, n, PIECE: tl.constexpr, EACH: tl.constexpr, GROUPS: tl.constexpr, UNITS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Of one tile; each lane is given all rows n of its group."""
    LANES: tl.constexpr = UNITS if UNITS < 32 else 32
    SEGMENT: tl.constexpr = (32 - LANES) * 256 + 31  # of LANES lanes, which have a group
    WIDE: tl.constexpr = EACH // len(tiles)
    j = tl.arange(0, WIDE)[None, None, :]
    own = tl.zeros([UNITS, GROUPS, WIDE], tl.float32)
    for i in tl.static_range(WIDE):
        if ASM:
            one = tl.inline_asm_elementwise(
                "shfl.sync.idx.b32 $0, $1, $2, $3, 0xffffffff;", "=r,r,r,r",
                [n, (PIECE * WIDE + i) * (LANES // EACH), SEGMENT], dtype=tl.float32, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            one = tl.sum(
                tl.where(tl.arange(0, UNITS)[:, None] == (PIECE * WIDE + i) * (LANES // EACH), n, 0.0),
                0,
                keep_dims=True,
            )
        own = tl.where(j == i, one[:, :, None], own)
    return tl.sum(tiles[PIECE] * own[:, :, None, :], 3)


@triton.jit
def add_to_sums(
    sums, program, part, squares, at, once,
    EXPERTS: tl.constexpr, UNITS: tl.constexpr, COPIES: tl.constexpr, PITCH: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """part as of `router_part`; squares float32 [UNITS, GROUPS] of the rows `at`, to be counted where `once`."""
    GROUPS: tl.constexpr = part.shape[1]
    K: tl.constexpr = part.shape[2]
    copy = sums + program % COPIES * PITCH
    square = (squares * (1.0 / SQUARES_UNIT)).to(tl.int64)
    tl.atomic_add(copy + EXPERTS + at % PLACES, square, mask=once, sem="relaxed")
    total = tl.broadcast_to(tl.sum(part, 1, keep_dims=True), part.shape)
    u, g = tl.arange(0, UNITS)[:, None], tl.arange(0, GROUPS)[None, :]
    for c in tl.static_range((K + GROUPS - 1) // GROUPS):  # each group adds experts of its own
        k = c * GROUPS + g
        own = tl.sum(tl.where(tl.arange(0, K)[None, None, :] == k[:, :, None], total, 0.0), 2)
        e = opaque(u + k * UNITS, ASM)
        tl.atomic_add(copy + e, (own * (1.0 / SUM_UNIT)).to(tl.int64), mask=(k < K) & (e < EXPERTS), sem="relaxed")


@triton.jit
def load_sum(
    sums, e, EXPERTS: tl.constexpr, COPIES: tl.constexpr, PITCH: tl.constexpr, CACHE: tl.constexpr,
):  # fmt: skip
    """float32 sums of experts e, before the factor; 0 for what is no expert. CACHE: the loads' modifier."""
    total = (e * 0).to(tl.int64)
    for c in tl.static_range(COPIES):
        total += tl.load(sums + c * PITCH + e, mask=e < EXPERTS, other=0, cache_modifier=CACHE)
    return total.to(tl.float32) * SUM_UNIT


@triton.jit
def load_factor(
    sums, eps, EXPERTS: tl.constexpr, COPIES: tl.constexpr, PITCH: tl.constexpr, COLS: tl.constexpr,
    CACHE: tl.constexpr,
):  # fmt: skip
    """1 / rms of x [COLS]; each warp for itself."""
    place = tl.arange(0, 32)
    squares = load_sum(sums + EXPERTS, place, PLACES, COPIES, PITCH, CACHE) * (SQUARES_UNIT / SUM_UNIT)
    return tl.rsqrt(tl.sum(squares, 0) * (1.0 / COLS) + eps)


@triton.jit
def clear_sums(sums, CLEARED: tl.constexpr):
    """By the first program, at its end: whoever read them was waited for, whoever adds to them waits for this one."""
    i = tl.arange(0, power_of_two(CLEARED))
    tl.store(sums + i, tl.zeros(i.shape, tl.int64), mask=(i < CLEARED) & (tl.program_id(0) == 0))


@dataclass(frozen=True)
class Router:
    """Whose sums are added up. weights: int32 or float32 [experts, hidden]; sums: int64, as of `allocate`."""

    weights: torch.Tensor
    sums: torch.Tensor
    experts: int
    copies: int

    @property
    def constants(self) -> dict[str, Any]:
        """The constexprs of whoever adds to the sums, or reads them."""
        return {"EXPERTS": self.experts, "COPIES": self.copies, "PITCH": pitch(self.experts)}


def pitch(experts: int) -> int:
    """int64 from one copy of the sums to the next: the experts', those of x^2, whole lines."""
    return (-(-experts // PLACES.value) + 1) * PLACES.value


def allocate(experts: int, copies: int, device: str | torch.device) -> torch.Tensor:
    """int64 zeros."""
    return torch.zeros(copies * pitch(experts), dtype=torch.int64, device=device)
