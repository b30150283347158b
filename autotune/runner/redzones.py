"""Strips of known bytes around the buffers of a candidate that is verified: a write beside them is found.

A write a few bytes past an end crashes nothing; it changes what the next candidate is judged by.
"""

from typing import Any

import numpy as np
import torch

from kernel_templates import memory

BYTES = 512  # of a strip: keeps every alignment that kernels count on
PATTERN = 0xA7


class OutOfBounds(Exception):
    """A candidate wrote outside of its buffers."""

    def __init__(self) -> None:
        super().__init__("it wrote outside of its buffers")


class Redzones:
    """The strips of one set of buffers."""

    def __init__(self) -> None:
        self._strips: list[Any] = []

    def array(self, array: np.ndarray) -> np.ndarray:
        """A contiguous copy between two strips."""
        whole = memory.empty((array.nbytes + 2 * BYTES,), np.uint8)
        inside = whole[BYTES : BYTES + array.nbytes].view(array.dtype).reshape(array.shape)
        inside[...] = array
        return self._between_strips(whole, inside)

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A contiguous copy between two strips, on the same device."""
        size = tensor.numel() * tensor.element_size()
        if size == 0:
            return tensor.clone()
        whole = torch.empty(size + 2 * BYTES, dtype=torch.uint8, device=tensor.device)
        inside = whole[BYTES : BYTES + size].view(tensor.dtype).view(tensor.shape)
        inside.copy_(tensor)
        return self._between_strips(whole, inside)

    def renew(self) -> None:
        """Write the strips again, whatever became of them."""
        for strip in self._strips:
            strip[:] = PATTERN

    def check(self) -> None:
        """Raises OutOfBounds."""
        if any(bool((strip != PATTERN).any()) for strip in self._strips):
            raise OutOfBounds

    def _between_strips(self, whole: Any, inside: Any) -> Any:
        for strip in (whole[:BYTES], whole[-BYTES:]):
            strip[:] = PATTERN
            self._strips.append(strip)
        return inside
