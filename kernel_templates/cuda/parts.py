"""A vector in parts, as split attention leaves it: each split's own softmax, to be weighted by who reads it.

    x[h] = sum_s w_s(h) part_s[h],  w_s(h) = 2^log_s(h) / sum_t 2^log_t(h)

log_s(h) is the binary logarithm of the sum of head h's weights in split s; `LOWEST` of a split without positions, whose
part is anything, NaN too.
"""

from dataclasses import dataclass

import torch

from kernel_templates.cuda.vector import GROUP, Vector

@dataclass(frozen=True)
class Parts:
    """vector: the parts one after the other, each of `heads` * head_dim elements; logs: float32 [heads, count]."""

    vector: Vector
    logs: torch.Tensor
    count: int
    head_dim: int

    @classmethod
    def within(cls, scratch: torch.Tensor, heads: int, head_dim: int, count: int) -> "Parts":
        """In float32 [>= parts_size] that others may use before and afterwards."""
        n = count * heads * head_dim
        words = scratch.view(torch.int32)
        values, high, low, rest = scratch[:n], words[n : n * 5 // 4], words[n * 5 // 4 : n * 3 // 2], scratch[n * 3 // 2 :]
        scale, logs = rest[: n // GROUP], rest[n // GROUP : n // GROUP + heads * count]
        return cls(Vector(values, high.view(torch.int8), low.view(torch.uint8), scale, scale), logs, count, head_dim)


def parts_size(heads: int, head_dim: int, count: int) -> int:
    """float32 elements of `Parts.within`."""
    return count * heads * (head_dim * 13 // 8 + 1)
