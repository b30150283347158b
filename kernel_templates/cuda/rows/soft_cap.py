"""A model's cap of its logits, over many rows in place: y = cap tanh(y / cap)."""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda import instructions
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton

TILE = 1024
"""Elements of a program: 8 a thread."""


@triton.jit
def cap_rows(y, count, CAP: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    v = tl.load(y + at, mask=at < count, other=0.0)
    tl.store(y + at, instructions.soft_cap(v, CAP, ASM), mask=at < count)


def launch(y: torch.Tensor, cap: float) -> Launch:
    """y: float32, contiguous."""
    count = y.numel()
    return Launch("soft_cap", cap_rows, (triton.cdiv(count, TILE),), (y, count), {"CAP": cap, "TILE": TILE})
