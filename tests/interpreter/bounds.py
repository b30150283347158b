"""Every access of an interpreted kernel lies in a tensor that it was given.

The interpreter follows any address. A GPU ends the process ("illegal memory access"), or worse, gives what lies there.
"""

from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from kernel_templates.cuda.launch import Launch, Target


class Extents:
    """The memory of tensors, from the first element to the last one of each: what lies between is not theirs."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        tensors = [each for each in arguments if isinstance(each, torch.Tensor) and each.numel()]
        joined: list[list[int]] = []
        for start, end in sorted(_extent(tensor) for tensor in tensors):
            if joined and start < joined[-1][1]:  # parts of one tensor
                joined[-1][1] = max(joined[-1][1], end)
            else:
                joined.append([start, end])
        self._starts, self._ends = np.array(joined, np.int64).reshape(-1, 2).T

    def check(self, pointers: Any, mask: Any) -> None:
        """pointers, mask: as the interpreter has them. Raises AssertionError."""
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        at = pointers.data[mask.data.astype(bool)].astype(np.int64)
        number = self._starts.searchsorted(at, "right") - 1
        outside = (number < 0) | (at + size > self._ends[number])
        if outside.any():
            off = int((at - self._starts[number])[outside][0])
            raise AssertionError(f"{outside.sum()} of {at.size} elements in no tensor, the first {off} bytes into one")


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def install(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, launches are watched; kernels that are called in another way are not."""
    builder, run = interpreter.interpreter_builder, Launch.run
    load, store, change = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    running: list[Extents] = []

    def watched(self: Launch, target: Target) -> None:
        running.append(Extents(self.arguments))
        try:
            run(self, target)
        finally:
            running.pop()

    def checked(pointers: Any, mask: Any) -> None:
        if running:
            running[-1].check(pointers, mask)

    def masked_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        checked(pointers, mask)
        return load(pointers, mask, *rest)

    def masked_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        checked(pointers, mask)
        return store(pointers, value, mask, *rest)

    def atomic(kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        checked(pointers, mask)
        return change(kind, pointers, value, mask, *rest)

    patch.setattr(Launch, "run", watched)
    patch.setattr(builder, "create_masked_load", masked_load)
    patch.setattr(builder, "create_masked_store", masked_store)
    patch.setattr(builder, "create_atomic_rmw", atomic)
