"""The embedding lookup of many tokens: x[r] = table[tokens[r]] * scale, decoded from the file's own bytes."""

import torch
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.embedding import Embedding, decode
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import group_places

TILE = 1024
"""Elements of a program: 8 a thread."""


@triton.jit
def embed_rows(
    raw, tokens, x,
    LAYOUT: tl.constexpr, HIDDEN: tl.constexpr, VOCAB: tl.constexpr, TILE: tl.constexpr, SCALE: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (r, t): elements from t * TILE on of row r. A token outside the vocabulary reads the nearest row."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    r = tl.program_id(0).to(tl.int64)
    token = tl.minimum(tl.maximum(tl.load(tokens + r), 0), VOCAB - 1)
    row = raw + token.to(tl.int64) * (HIDDEN // LAYOUT.size * LAYOUT.nbytes)
    g, e = group_places(tl.program_id(1), TILE, ASM)
    inside = g < HIDDEN // 8
    v = decode(row, g, e, inside, LAYOUT)
    if SCALE != 1.0:
        v = v * SCALE
    tl.store(x + r * HIDDEN + (g * 8 + e), v, mask=inside)


def launch(embedding: Embedding, tokens: torch.Tensor, x: torch.Tensor) -> Launch:
    """Reads tokens int32 [rows]; writes x float32 [rows, hidden]."""
    tile = min(triton.next_power_of_2(embedding.hidden), TILE)
    grid = (len(x), triton.cdiv(embedding.hidden, tile))
    return Launch("embed", embed_rows, grid, (embedding.raw, tokens, x), {**embedding.constants, "TILE": tile})
