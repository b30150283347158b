"""What passes over many tokens keep on the device between their kernels: one set for all, since one runs at a time.

A row takes 4 hidden (x) + 2 hidden (normed) + 4 heads head_dim (q, attended) + 2 ffn (gated) + 4 max((heads + 2
kv_heads) head_dim, 2 ffn, hidden) (wide) bytes: 2048 rows 91 MB for Qwen3-0.6B, 336 MB for Qwen3-8B. Beside them stands
the matrix that is expanded at the time, 2 bytes a weight of the largest product: 13 MB and 201 MB, twice that where the
next one is expanded meanwhile.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.cuda.load import Loaded
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory


@dataclass(frozen=True)
class PassBuffers:
    """x float32 [most, hidden]: the residual stream. normed, q, attended and gated, float16, and wide, float32, what a
    product gives until the next one: flat, cut to a pass's rows. expanded: float16, one matrix or two."""

    x: Tensor
    normed: Tensor
    q: Tensor
    attended: Tensor
    gated: Tensor
    wide: Tensor
    expanded: tuple[Tensor, ...]

    @classmethod
    def allocate(cls, model: Loaded, most: int, matrices: int, device: torch.device) -> "PassBuffers":
        """most: rows of a pass; matrices: expanded at once. Raises ModelError when memory does not suffice."""
        c = model.config
        halves = (c.hidden, c.heads * c.head_dim, c.heads * c.head_dim, c.ffn)
        widest = max((c.heads + 2 * c.kv_heads) * c.head_dim, 2 * c.ffn, c.hidden)
        largest = largest_product(model)
        size = most * (4 * c.hidden + 2 * sum(halves) + 4 * widest) + 2 * largest * matrices
        with explain_out_of_memory(f"the {size / 1e9:.1f} GB that prompts need", FOR_CONTEXT):
            # Zeros, because rows that no token has are computed with too.
            normed, q, attended, gated = (
                torch.zeros(most * each, dtype=torch.float16, device=device) for each in halves
            )
            return cls(
                torch.zeros((most, c.hidden), device=device), normed, q, attended, gated,
                torch.zeros(most * widest, device=device),
                tuple(torch.empty(largest, dtype=torch.float16, device=device) for _ in range(matrices)),
            )  # fmt: skip


def largest_product(model: Loaded) -> int:
    """Weights of the largest product of a layer: q, k and v are one, and so are gate and up."""
    products = (
        group
        for layer in model.layers
        for group in (layer.packed["qkv"], layer.packed["out"], layer.packed["ffn"][:2], layer.packed["ffn"][2:])
    )
    return max(sum(planes.rows * planes.cols for planes in group) for group in products)
