"""The gate of what attention gives, over many rows in place: out *= sigmoid(gate), a gate behind each query."""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import place
from kernel_templates.cuda.instructions import reciprocal
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton

TILE = 1024
"""Elements of a program: 8 a thread."""


@triton.jit
def gate_heads(
    qkv, out, row_size,
    SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr, TILE: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, t): elements from t * TILE on of row r. A gate of head h begins at (2 h + 1) * HEAD_DIM of qkv."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    r = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = c < SIZE
    gate = tl.load(qkv + r * row_size + c + (c // HEAD_DIM + 1) * HEAD_DIM, mask=inside, other=0.0)
    at = out + r * WIDTH + place(c, ORDER)
    y = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, (y * reciprocal(1.0 + tl.exp(-gate), ASM)).to(tl.float16), mask=inside)


def launch(qkv: torch.Tensor, out: torch.Tensor, heads: int, head_dim: int, order: int) -> Launch:
    """Reads qkv float32 [rows, raw heads]; out: float16 [rows, heads * head_dim in the order of columns]."""
    size = heads * head_dim
    tile = min(triton.next_power_of_2(size), TILE)
    constants = {"SIZE": size, "HEAD_DIM": head_dim, "WIDTH": out.shape[1], "ORDER": order, "TILE": tile}
    grid = (len(qkv), triton.cdiv(size, tile))
    return Launch("output_gate", gate_heads, grid, (qkv, out, qkv.shape[1]), constants, max(tile // 256, 1))
