"""Inputs of layers in passes over many tokens: what each layer gets of a row, and how its gate lets it through.

The products before take x / rms(x), since x itself may not fit float16; what they give is multiplied with rms(x) here,
which each program sums for itself.
"""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import NATURAL, place
from kernel_templates.cuda.gating import GATED_SCALE, activate
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton

TILE = 8192
"""Elements of x that are summed at once."""


@triton.jit
def rms(x, eps, HIDDEN: tl.constexpr, TILE: tl.constexpr):
    """sqrt(mean x^2 + eps) of a row: what `add_norm` has divided it by."""
    c = tl.arange(0, TILE)
    squares = tl.zeros([TILE], tl.float32)
    for first in tl.static_range(0, HIDDEN, TILE):
        v = tl.load(x + first + c, mask=first + c < HIDDEN, other=0.0)
        squares += v * v
    return tl.sqrt(tl.sum(squares, 0) * (1.0 / HIDDEN) + eps)


@triton.jit
def mix_input_rows(
    x, projected, norm, inputs, eps,
    HIDDEN: tl.constexpr, LAYERS: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr,
    TILE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, p): PARTS layers' parts of row r, inputs = (rmsnorm(W x / sqrt(HIDDEN)) * norm + inputs) / sqrt(2);
    projected: W x / rms(x)."""
    if PDL:
        gdc_launch_dependents()
    r = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1) * PARTS + tl.arange(0, PARTS)[:, None]
    element = tl.arange(0, WIDE)[None, :]
    inside = (layer < LAYERS) & (element < SIZE)
    at = r * (LAYERS * SIZE) + layer * SIZE + element
    weight = tl.load(norm + element, mask=element < SIZE, other=0.0)
    if PDL:
        gdc_wait()
    y = tl.load(projected + at, mask=inside, other=0.0) * rms(x + r * HIDDEN, eps, HIDDEN, TILE)
    own = tl.load(inputs + at, mask=inside, other=0.0)
    factor = tl.rsqrt(tl.sum(y * y, 1, keep_dims=True) * (1.0 / SIZE) + eps * HIDDEN)
    tl.store(inputs + at, (y * factor * weight + own) * 0.7071067811865476, mask=inside)


@triton.jit
def gate_input_rows(
    x, y, inputs, out, eps, first,
    HIDDEN: tl.constexpr, STRIDE: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
    WIDE: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program: a row, out = gelu(W x) * a layer's part of its inputs, as float16 times GATED_SCALE; y: W x / rms(x)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    r = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, WIDE)
    inside = c < SIZE
    z = tl.load(y + r * SIZE + c, mask=inside, other=0.0) * rms(x + r * HIDDEN, eps, HIDDEN, TILE)
    given = tl.load(inputs + r * STRIDE + first + c, mask=inside, other=0.0) * GATED_SCALE
    tl.store(out + r * WIDTH + place(c, ORDER), to_half(activate(z, True, ASM) * given), mask=inside)


def mix(x: torch.Tensor, projected: torch.Tensor, norm: torch.Tensor, inputs: torch.Tensor, eps: float) -> Launch:
    """Reads x float32 [rows, hidden], projected float32 [rows, layers * size] and norm float32 [size]; changes inputs
    float32 [rows, layers * size]."""
    (rows, hidden), size = x.shape, norm.numel()
    layers, wide = inputs.shape[1] // size, triton.next_power_of_2(size)
    parts = max(1, 1024 // wide)
    constants = {"HIDDEN": hidden, "LAYERS": layers, "SIZE": size, "PARTS": parts, "WIDE": wide}
    constants["TILE"] = min(triton.next_power_of_2(hidden), TILE)
    grid = (rows, triton.cdiv(layers, parts))
    return Launch("mix_inputs", mix_input_rows, grid, (x, projected, norm, inputs, eps), constants)


def gate(
    x: torch.Tensor, y: torch.Tensor, inputs: torch.Tensor, first: int, out: torch.Tensor, eps: float,
    order: int = NATURAL,
) -> Launch:  # fmt: skip
    """Reads x float32 [rows, hidden], y float32 [rows, size] and inputs float32 [rows, layers * size], of which the
    layer's part begins at `first`; writes out float16 [rows, size in the order], times GATED_SCALE."""
    (rows, hidden), size = x.shape, y.shape[1]
    constants = {
        "HIDDEN": hidden, "STRIDE": inputs.shape[1], "SIZE": size, "WIDTH": out.shape[1], "ORDER": order,
        "WIDE": triton.next_power_of_2(size), "TILE": min(triton.next_power_of_2(hidden), TILE),
    }  # fmt: skip
    return Launch("gate_input", gate_input_rows, (rows,), (x, y, inputs, out, eps, first), constants)
