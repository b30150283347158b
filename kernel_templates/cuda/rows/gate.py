"""The gate of the feed-forward half over many tokens: out = g(gate) * up, g silu or gelu in its tanh form."""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import NATURAL, place
from kernel_templates.cuda.gating import GATED_SCALE, activate
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton

TILE = 1024
"""Elements of a program: 8 a thread."""


@triton.jit
def gate_rows(
    y, out,
    WIDTH: tl.constexpr, OUT_WIDTH: tl.constexpr, ORDER: tl.constexpr, TILE: tl.constexpr, GELU: tl.constexpr,
    SCALED: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, t): elements from t * TILE on of row r. SCALED: y is times GATED_SCALE already."""
    if PDL:
        gdc_launch_dependents()
    r = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = c < WIDTH
    y += r * (2 * WIDTH)
    if PDL:
        gdc_wait()
    g = tl.load(y + c, mask=inside, other=0.0)
    u = tl.load(y + WIDTH + c, mask=inside, other=0.0)
    if SCALED:  # the library knows no largest number: infinite times zero is none
        g, u = to_half(g).to(tl.float32) * (1 / GATED_SCALE), to_half(u).to(tl.float32)
    else:
        u = u * GATED_SCALE
    tl.store(out + r * OUT_WIDTH + place(c, ORDER), to_half(activate(g, GELU, ASM) * u), mask=inside)


def gate(y: torch.Tensor, out: torch.Tensor, function: str, order: int = NATURAL) -> Launch:
    """Reads y [rows, 2 * width], gates and then ups, float32 or times GATED_SCALE float16; writes out float16 [rows,
    width in the order], the activation times GATED_SCALE. function: "silu" or "gelu"; order: of the columns, as of
    `fragments`."""
    rows, width = y.shape[0], y.shape[1] // 2
    tile = min(triton.next_power_of_2(width), TILE)
    constants = {"WIDTH": width, "OUT_WIDTH": out.shape[1], "ORDER": order, "TILE": tile, "GELU": function == "gelu"}
    constants["SCALED"] = y.dtype == torch.float16
    grid = (rows, triton.cdiv(width, tile))
    return Launch("gate", gate_rows, grid, (y, out), constants, warps=max(tile // 256, 1))
