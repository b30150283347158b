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
    """The memory of a launch's tensors: what lies between them is not theirs. Pages of a cache may lie anywhere: where
    the table says."""

    def __init__(self, launch: Launch) -> None:
        names = [name for name in launch.kernel.arg_names if name not in launch.constants]
        given = dict(zip(names, launch.arguments, strict=False))
        found = [_extent(each) for each in given.values() if isinstance(each, torch.Tensor) and each.numel()]
        if "table" in given:
            found += _pages(given, launch.constants["KV_HEADS"])
            if given.get("scales") is not None:
                found += _scales(given, launch.constants)
        joined: list[list[int]] = []
        for start, end in sorted(found):
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
    """Of some columns to the end of the last row: an order of columns may have places behind them."""
    start, memory = tensor.data_ptr(), tensor.untyped_storage()
    elements = max([1, *(size * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))])
    return start, min(start + elements * tensor.element_size(), memory.data_ptr() + memory.nbytes())


def _pages(given: dict[str, Any], kv_heads: int) -> list[tuple[int, int]]:
    """A layer's part of each page, as of `kernel_templates.cuda.pages`."""
    cache, elements = given["cache"], given["values"] + kv_heads * given["head_stride"]
    size = cache.element_size()
    starts = [cache.data_ptr() + size * (page + given["layer"]) for page in given["table"].unique().tolist()]
    return [(start, start + size * elements) for start in starts]


def _scales(given: dict[str, Any], constants: Any) -> list[tuple[int, int]]:
    """Of the same part of each page."""
    start, size = given["scales"].data_ptr(), 4
    elements = (given["values"] + constants["KV_HEADS"] * given["head_stride"]) // constants["HEAD_DIM"]
    firsts = [page // constants["PER_SCALE"] + given["scale_layer"] for page in given["table"].unique().tolist()]
    return [(start + size * first, start + size * (first + elements)) for first in firsts]


def install(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, launches are watched; kernels that are called in another way are not."""
    builder, run = interpreter.interpreter_builder, Launch.run
    load, store, change = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    running: list[Extents] = []

    def watched(self: Launch, target: Target) -> None:
        running.append(Extents(self))
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
